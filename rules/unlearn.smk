# With `cache_activations`: what the frozen layers make of every text, computed once for all shards and seeds. Not temporary: were
# it made again for one more seed, Snakemake would repeat the others too.
rule activations:
    input:
        script=source_file(SCRIPTS / "cache_activations.py"),
        method=JOBS.method_file,
        base=JOBS.model,
        forget=FORGET,
        retain=RETAIN,
        attributes=ATTRIBUTES,
    output:
        f"{RESULTS}/unlearned/{{method}}/activations.safetensors",
    log:
        f"{LOGS}/activations/{{method}}.log",
    benchmark:
        f"{BENCHMARKS}/activations/{{method}}.tsv"
    conda:
        ENVS / "model.yaml"
    resources:
        gpu=1,
        gpu_mem_mb=JOBS.gpu_memory if GRID.sets("gpu_memory") else GPU_MEMORY,
        mem_mb=growing(JOBS.memory if GRID.sets("memory") else MEMORY),
        runtime=growing(60),
    params:
        library=library("cache_activations.py"),
        method_library=JOBS.method_library,
        options=JOBS.activation_options,
    message:
        "Compute what the layers that {wildcards.method} leaves alone make of every text"
    shell:
        on_gpus(
            "--method={input.method:q} --options {params.options:q} --base {input.base:q}"
            " --forget {input.forget:q} --retain {input.retain:q} --attributes {input.attributes:q}"
            " --output {output:q}"
        )


rule unlearn:
    input:
        script=source_file(SCRIPTS / "unlearn.py"),
        method=JOBS.method_file,
        base=JOBS.model,
        shards=JOBS.partition,
        retain=RETAIN,
        activations=JOBS.activations if GRID.sets("cache_activations") else [],
        norms_of=JOBS.norms_of if GRID.sets("norms_of") else [],
        checkpoint=JOBS.checkpoint if GRID.sets("checkpoint") else [],
        accelerate=JOBS.accelerate if GRID.sets("accelerate") else [],
        tuning=JOBS.tuning if GRID.tuning else [],
        attributes=ATTRIBUTES,
    output:
        task_vector=f"{RESULTS}/unlearned/{{run}}/task_vector.safetensors",
        training=f"{RESULTS}/unlearned/{{run}}/training.csv",
    log:
        f"{LOGS}/unlearn/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/unlearn/{{run}}.tsv"
    conda:
        ENVS / "model.yaml"
    resources:
        gpu=JOBS.gpus if GRID.sets("gpus", but=1) else 1,
        gpu_mem_mb=JOBS.gpu_memory if GRID.sets("gpu_memory") else GPU_MEMORY,
        mem_mb=growing(JOBS.memory if GRID.sets("memory") else MEMORY),
        runtime=growing(120),
    params:
        library=library("unlearn.py"),
        method_library=JOBS.method_library,
        options=JOBS.run_options,
        steps_of_shards=JOBS.steps_of_shards if GRID.sets("steps_of_shards", but="equal") else "equal",
        run=JOBS.run_description,
        launcher=JOBS.launcher if GRID.sets("accelerate") else "python",
        shard=JOBS.shard_name,
        unfinished=JOBS.unfinished,
    message:
        "Unlearn {wildcards.run}"
    shell:
        on_gpus(
            "--method={input.method:q} --options {params.options:q} --steps-of-shards {params.steps_of_shards}"
            " --run {params.run:q} --base {input.base:q}"
            " --forget {input.shards:q}/{params.shard}.parquet --retain {input.retain:q}"
            " --tuning {input.tuning:q} --accelerate {input.accelerate:q}"
            " --activations {input.activations:q} --attributes {input.attributes:q} --norms-of {input.norms_of:q}"
            " --unfinished {params.unfinished:q} --save-every $SPUNGE_SAVE_EVERY"
            " --task-vector {output.task_vector:q} --training {output.training:q}",
            program="{params.launcher}",
        )


# Of each arm's trials the one that leaves least on the validation part. The file, not the plan, tells the other runs what it
# is, so that no checkpoint is needed.
rule choose:
    input:
        script=source_file(SCRIPTS / "choose.py"),
        attributes=DISCOVERED,  # `trials` depends on it
        outcomes=JOBS.trial_rows(JOBS.tuning_evaluation),
        budgets=JOBS.trial_rows("budget"),
    output:
        [] if GRID.tuning.get("file") else f"{RESULTS}/tuning.csv",  # the file that is named may lie there
    log:
        f"{LOGS}/choose.log",
    benchmark:
        f"{BENCHMARKS}/choose.tsv"
    conda:
        ENVS / "report.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        library=library("choose.py"),
        trials=lambda wildcards: JOBS.trials(),  # options may have braces
        metric=JOBS.tuning_metric,
    message:
        "Choose the options of each arm by the validation part"
    shell:
        python(
            "--trials <(printf '%s' {params.trials:q}) --metric {params.metric}"
            " --outcomes @<(printf '%s\n' {input.outcomes:q}) --budgets @<(printf '%s\n' {input.budgets:q})"
            " --output {output:q}"
        )
