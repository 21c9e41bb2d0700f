# What a candidate wrote: kept once it is scored, unless the configuration says that no texts may be.
CONTINUATIONS = f"{RESULTS}/evaluations/{{candidate}}/continuations.parquet"
KEPT_CONTINUATIONS = CONTINUATIONS if config["store_texts"] else temp(CONTINUATIONS)


ruleorder: evaluate > generate


# All evaluations of a candidate in one job: to start the libraries and to load the model takes as long as a short one.
rule evaluate:
    input:
        script=source_file(SCRIPTS / "evaluate.py"),
        library=library(
            "models",
            "task_vector",
            "safetensors_stream",
            "progress",
            "datasets/tables",
            "options",
            "unfinished",
            "evaluation/statistics",
            "evaluation/description",
            "evaluation/shared_context",
            "evaluation/jobs",
            *(["evaluation/generation"] if TOXICITY and not VLLM else []),
        ),
        evaluations=[source_file(PROJECT / "spunge" / "evaluation" / f"{name}.py") for name in MODEL_EVALUATIONS],
        base=MODEL,
        task_vector=candidate_task_vector,
        data=[EVALUATION_DATA[name] for name in MODEL_EVALUATIONS],
        prompts=[] if VLLM else PROMPTS,
        attributes=ATTRIBUTES,
    output:
        scores=[f"{RESULTS}/evaluations/{{candidate}}/{name}.parquet" for name in MODEL_EVALUATIONS],
        rows=[f"{RESULTS}/evaluations/{{candidate}}/{name}.csv" for name in MODEL_EVALUATIONS],
        continuations=KEPT_CONTINUATIONS if TOXICITY and not VLLM else [],
    log:
        f"{LOGS}/evaluate/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/evaluate/{{candidate}}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=1,
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=lambda wildcards, attempt: MEMORY * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        evaluations=json.dumps({name: config["evaluations"][name] for name in MODEL_EVALUATIONS}),
        generation=json.dumps(GENERATION),
        statistics=json.dumps(config["statistics"]),
        candidate=candidate_description,
        scale=candidate_scale,
        dtype=config["model"]["dtype"],
        unfinished=lambda wildcards, output: unfinished("evaluate", output),
    message:
        "Evaluate {wildcards.candidate}"
    shell:
        "python -P -m spunge.gpus --gpus {resources.gpu} --memory {resources.gpu_mem_mb} --"
        " python {input.script:q} --evaluations {params.evaluations:q} --dtype {params.dtype}"
        " --statistics {params.statistics:q} --candidate {params.candidate:q} --base {input.base:q}"
        " --task-vector {input.task_vector:q} --scale={params.scale} --data {input.data:q} --attributes {input.attributes:q}"
        " --scores {output.scores:q} --rows {output.rows:q} --generation {params.generation:q}"
        " --prompts {input.prompts:q} --continuations {output.continuations:q}"
        " --unfinished {params.unfinished:q} --save-every $SPUNGE_SAVE_EVERY 2>&1 | tee {log:q}"


# With `generator: vllm` alone: else the rule evaluate comes first. A whole model folder is written, since that is what vLLM
# loads, and removed afterwards.
rule generate:
    input:
        script=source_file(SCRIPTS / "generate_with_vllm.py"),
        library=library(
            "export",
            "model_card",
            "models",
            "task_vector",
            "safetensors_stream",
            "progress",
            "options",
            "unfinished",
            "datasets/tables",
            "evaluation/generation",
            "evaluation/vllm_generation",
        ),
        base=MODEL,
        task_vector=candidate_task_vector,
        prompts=PROMPTS,
    output:
        KEPT_CONTINUATIONS,
    log:
        f"{LOGS}/generate/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/generate/{{candidate}}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=1,
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=lambda wildcards, attempt: (12000 + MEMORY) * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        generation=json.dumps(GENERATION),
        scale=candidate_scale,
        dtype=config["model"]["dtype"],
    message:
        "Continue the prompts with {wildcards.candidate}, by vLLM"
    shell:
        "python -P -m spunge.gpus --gpus {resources.gpu} --memory {resources.gpu_mem_mb} --"
        " python {input.script:q} --candidate {wildcards.candidate} --dtype {params.dtype} --base {input.base:q}"
        " --task-vector {input.task_vector:q} --scale={params.scale} --generation {params.generation:q}"
        " --prompts {input.prompts:q} --continuations {output:q} 2>&1 | tee {log:q}"


# By itself, so that another classifier makes no model write again.
rule score_toxicity:
    input:
        script=source_file(SCRIPTS / "score_toxicity.py"),
        library=library(
            "models",
            "task_vector",
            "safetensors_stream",
            "progress",
            "datasets/tables",
            "datasets/wheels",
            "evaluation/classifiers",
            "evaluation/toxicity",
            "evaluation/statistics",
        ),
        continuations=CONTINUATIONS,
        prompts=PROMPTS,
        classifiers=lambda wildcards: sum(classifier_files(wildcards).values(), []),
        attributes=ATTRIBUTES,
    output:
        scores=[f"{RESULTS}/evaluations/{{candidate}}/{name}.parquet" for name in ("toxicity", "toxicity_neutral")],
        rows=[f"{RESULTS}/evaluations/{{candidate}}/{name}.csv" for name in ("toxicity", "toxicity_neutral")],
    log:
        f"{LOGS}/score_toxicity/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/score_toxicity/{{candidate}}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=int(any(section["classifier"] == "huggingface" for section in CLASSIFIERS.values())),
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=lambda wildcards, attempt: MEMORY * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        classifiers=lambda wildcards: json.dumps(CLASSIFIERS),  # sources may have braces
        files=classifier_arguments,
        threshold=TOXICITY["threshold"] if TOXICITY else 0,
        statistics=json.dumps(config["statistics"]),
        candidate=candidate_description,
    message:
        "Score what {wildcards.candidate} wrote"
    shell:
        "python -P -m spunge.gpus --gpus {resources.gpu} --memory {resources.gpu_mem_mb} --"
        " python {input.script:q} --continuations {input.continuations:q} --prompts {input.prompts:q}"
        " --classifiers {params.classifiers:q} {params.files:q} --threshold {params.threshold}"
        " --statistics {params.statistics:q} --candidate {params.candidate:q} --attributes {input.attributes:q}"
        " --toxic-scores {output.scores[0]:q} --toxic-rows {output.rows[0]:q}"
        " --neutral-scores {output.scores[1]:q} --neutral-rows {output.rows[1]:q} 2>&1 | tee {log:q}"


# By itself, since it takes hours. The mirror's files are no inputs: there are thousands, of published data sets that don't
# change, and which of them a task reads lm-eval alone knows; benchmarks.json keeps a hash of what was asked.
rule benchmarks:
    input:
        script=source_file(SCRIPTS / "run_benchmarks.py"),
        library=library(
            "models",
            "task_vector",
            "safetensors_stream",
            "progress",
            "options",
            "evaluation/benchmarks",
            "evaluation/knowledge",
            "evaluation/description",
            "evaluation/shared_context",
            "evaluation/jobs",
            "evaluation/statistics",
        ),
        base=MODEL,
        task_vector=candidate_task_vector,
        attributes=ATTRIBUTES,
    output:
        scores=f"{RESULTS}/evaluations/{{candidate}}/benchmarks.parquet",
        rows=f"{RESULTS}/evaluations/{{candidate}}/benchmarks.csv",
        results=f"{RESULTS}/evaluations/{{candidate}}/benchmarks.json",
    log:
        f"{LOGS}/benchmarks/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/benchmarks/{{candidate}}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=1,
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=lambda wildcards, attempt: (12000 + MEMORY) * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        options=lambda wildcards: json.dumps(LM_EVAL),  # attributes may have braces
        statistics=json.dumps(config["statistics"]),
        candidate=candidate_description,
        scale=candidate_scale,
        dtype=config["model"]["dtype"],
    message:
        "Ask {wildcards.candidate} lm-eval's tasks"
    shell:
        "python -P -m spunge.gpus --gpus {resources.gpu} --memory {resources.gpu_mem_mb} --"
        " python {input.script:q} --options <(printf '%s' {params.options:q}) --dtype {params.dtype}"
        " --statistics {params.statistics:q}"
        " --candidate {params.candidate:q} --base {input.base:q} --task-vector {input.task_vector:q}"
        " --scale={params.scale} --attributes {input.attributes:q} --scores {output.scores:q} --rows {output.rows:q}"
        " --results {output.results:q} 2>&1 | tee {log:q}"


# All candidates' files reach a script as a list that it reads, one path a line: with hundreds of shards and ten seeds
# they would exceed what a system lets a command line be. printf is bash's own, to which no such limit holds.
rule compare:
    input:
        script=source_file(SCRIPTS / "compare.py"),
        library=library("evaluation/statistics"),
        scores=lambda wildcards: scores(wildcards.evaluation),
        attributes=ATTRIBUTES,
    output:
        f"{RESULTS}/comparisons/{{evaluation}}.csv",
    log:
        f"{LOGS}/compare/{{evaluation}}.log",
    benchmark:
        f"{BENCHMARKS}/compare/{{evaluation}}.tsv"
    conda:
        ENVS / "report.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        statistics=json.dumps(config["statistics"]),
    message:
        "Combine the seeds and compare the candidates' {wildcards.evaluation}"
    shell:
        "python {input.script:q} --evaluation {wildcards.evaluation} --statistics {params.statistics:q}"
        " --attributes {input.attributes:q} --scores @<(printf '%s\\n' {input.scores:q})"
        " --output {output:q} 2>&1 | tee {log:q}"


rule equal_fluency:
    input:
        script=source_file(SCRIPTS / "equal_fluency.py"),
        library=library("evaluation/statistics", "evaluation/equal_fluency"),
        toxicity=lambda wildcards: scores("toxicity"),
        fluency=lambda wildcards: scores("fluency"),
        attributes=ATTRIBUTES,
    output:
        f"{RESULTS}/comparisons/equal_fluency.csv",
    log:
        f"{LOGS}/equal_fluency.log",
    benchmark:
        f"{BENCHMARKS}/equal_fluency.tsv"
    conda:
        ENVS / "report.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        families=json.dumps(FAMILIES),
        ratio=TOXICITY["equal_fluency"] if TOXICITY else 0,
        statistics=json.dumps(config["statistics"]),
    message:
        "Compare the splits' toxicity at equal fluency"
    shell:
        "python {input.script:q} --families {params.families:q} --ratio {params.ratio}"
        " --statistics {params.statistics:q} --attributes {input.attributes:q}"
        " --toxicity @<(printf '%s\\n' {input.toxicity:q})"
        " --fluency @<(printf '%s\\n' {input.fluency:q}) --output {output:q} 2>&1 | tee {log:q}"


rule gather:
    input:
        script=source_file(SCRIPTS / "gather.py"),
        library=library(),
        rows=all_rows,
    output:
        report(
            EVALUATIONS, category="Tables", caption=CAPTIONS / "evaluations.rst", labels={"table": "all evaluations"}
        ),
    log:
        f"{LOGS}/gather.log",
    benchmark:
        f"{BENCHMARKS}/gather.tsv"
    conda:
        ENVS / "report.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    message:
        "Gather all evaluations in one table"
    shell:
        "python {input.script:q} --output {output:q} --rows @<(printf '%s\\n' {input.rows:q}) 2>&1 | tee {log:q}"
