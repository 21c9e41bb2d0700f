# With `keep_states`: what the frozen layers make of every text, computed once for all shards and seeds. Not temporary: were
# it made again for one more seed, Snakemake would repeat the others too.
rule states:
    input:
        script=source_file(SCRIPTS / "frozen_states.py"),
        library=library(
            "models",
            "task_vector",
            "safetensors_stream",
            "progress",
            "batches",
            "options",
            "unfinished",
            "methods/__init__",
            "datasets/tables",
        ),
        method=method_file,
        base=MODEL,
        forget=FORGET,
        retain=RETAIN,
        attributes=ATTRIBUTES,
    output:
        f"{RESULTS}/unlearned/{{method}}/frozen_states.safetensors",
    log:
        f"{LOGS}/states/{{method}}.log",
    benchmark:
        f"{BENCHMARKS}/states/{{method}}.tsv"
    conda:
        ENVS / "model.yaml"
    resources:
        gpu=1,
        gpu_mem_mb=if_set("gpu_memory", method_gpu_memory, GPU_MEMORY),
        mem_mb=lambda wildcards, attempt: METHODS[wildcards.method].get("memory", MEMORY) * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        options=states_options,
    message:
        "Compute what the layers that {wildcards.method} leaves alone make of every text"
    shell:
        "python -P -m spunge.gpus --gpus {resources.gpu} --memory {resources.gpu_mem_mb} --"
        " python {input.script:q} --method={input.method:q} --options {params.options:q} --base {input.base:q}"
        " --forget {input.forget:q} --retain {input.retain:q} --attributes {input.attributes:q}"
        " --output {output:q} 2>&1 | tee {log:q}"


rule unlearn:
    input:
        script=source_file(SCRIPTS / "unlearn.py"),
        library=library(
            "models",
            "task_vector",
            "safetensors_stream",
            "progress",
            "batches",
            "training",
            "options",
            "unfinished",
            "methods/__init__",
            "datasets/tables",
            "evaluation/description",
            "evaluation/statistics",
        ),
        method=method_file,
        base=MODEL,
        shard=shard,
        retain=RETAIN,
        states=if_set("keep_states", method_states, []),
        like=if_set("like", method_like, []),
        checkpoint=if_set("checkpoint", method_checkpoint, []),
        accelerate=if_set("accelerate", method_accelerate, []),
        attributes=ATTRIBUTES,
    output:
        task_vector=f"{RESULTS}/unlearned/{{method}}/{{split}}/{{part}}/seed{{seed}}/task_vector.safetensors",
        training=f"{RESULTS}/unlearned/{{method}}/{{split}}/{{part}}/seed{{seed}}/training.csv",
    log:
        f"{LOGS}/unlearn/{{method}}/{{split}}/{{part}}/seed{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/unlearn/{{method}}/{{split}}/{{part}}/seed{{seed}}.tsv"
    conda:
        ENVS / "model.yaml"
    resources:
        gpu=if_set("gpus", method_gpus, 1),
        gpu_mem_mb=if_set("gpu_memory", method_gpu_memory, GPU_MEMORY),
        mem_mb=lambda wildcards, attempt: METHODS[wildcards.method].get("memory", MEMORY) * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        options=method_options,
        run=run_description,
        launcher=if_set("accelerate", method_launcher, "python"),
        unfinished=lambda wildcards, output: unfinished("unlearn", output),
    message:
        "Unlearn {wildcards.part} ({wildcards.split} split) with {wildcards.method}, seed {wildcards.seed}"
    shell:
        "python -P -m spunge.gpus --gpus {resources.gpu} --memory {resources.gpu_mem_mb} --"
        " {params.launcher} {input.script:q} --method={input.method:q} --options {params.options:q} --run {params.run:q}"
        " --base {input.base:q} --forget {input.shard:q} --retain {input.retain:q} --states {input.states:q}"
        " --part {wildcards.part} --attributes {input.attributes:q} --like {input.like:q}"
        " --unfinished {params.unfinished:q} --save-every $SPUNGE_SAVE_EVERY"
        " --task-vector {output.task_vector:q} --training {output.training:q} 2>&1 | tee {log:q}"
