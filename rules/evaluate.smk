TOXICITY = GRID.toxicity
GENERATION = json.dumps(configuration.generation_options(TOXICITY) if TOXICITY else {})
VLLM = bool(TOXICITY) and TOXICITY["generator"] == "vllm"
# What a candidate wrote: kept once it is scored, unless the configuration says that no texts may be.
CONTINUATIONS = f"{RESULTS}/evaluations/{{candidate}}/continuations.parquet"
KEPT_CONTINUATIONS = CONTINUATIONS if config["store_texts"] else temp(CONTINUATIONS)
STRENGTHS = f"{RESULTS}/evaluations/{{candidate}}/strengths.json" if GRID.costs else []  # λ by budget
# Of candidates that the cores can't share evenly the first ones go first: else the last run beside idle cores.
GO_FIRST = GRID.left_over(workflow.resource_settings.cores or 1)


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
        reading=json.dumps(config["evaluations"].get("fluency", {}), sort_keys=True),
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
    # The base model, for which no λ is solved, takes least: it fills what the last candidate leaves free.
    priority: lambda wildcards: -1 if wildcards.candidate == "base" else int(wildcards.candidate in GO_FIRST)
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
    message:
        "Continue the prompts with {wildcards.candidate}, by vLLM"
    shell:
        on_gpus(
            "--candidate {wildcards.candidate} --base {input.base:q}"
            " --task-vector {input.task_vector:q} --scale={params.scale} --strengths {input.strengths:q}"
            " --generation {params.generation:q}"
            " --prompts {input.prompts:q} --continuations {output:q}"
        )
