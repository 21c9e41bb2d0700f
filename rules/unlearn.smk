rule unlearn:
    input:
        script=SCRIPTS / "unlearn.py",
        library=library("models", "task_vector", "safetensors_stream", "progress", "methods/__init__"),
        method=method_file,
        base=MODEL,
        shard=shard,
        retain=RETAIN,
    output:
        task_vector=f"{RESULTS}/unlearned/{{method}}/{{split}}/{{part}}/seed{{seed}}/task_vector.safetensors",
        training=f"{RESULTS}/unlearned/{{method}}/{{split}}/{{part}}/seed{{seed}}/training.csv",
    log:
        f"{LOGS}/unlearn/{{method}}/{{split}}/{{part}}/seed{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/unlearn/{{method}}/{{split}}/{{part}}/seed{{seed}}.tsv"
    conda:
        ENVS / "model.yaml"
    params:
        options=method_options,
        run=run_description,
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    message:
        "Unlearn {wildcards.part} ({wildcards.split} split) with {wildcards.method}, seed {wildcards.seed}"
    shell:
        "python {input.script} --method {input.method:q} --options {params.options:q} --run {params.run:q}"
        " --base {input.base:q} --forget {input.shard:q} --retain {input.retain:q}"
        " --task-vector {output.task_vector:q} --training {output.training:q} 2>&1 | tee {log:q}"
