rule merge:
    input:
        script=source_file(SCRIPTS / "merge.py"),
        library=library(
            "task_vector",
            "safetensors_stream",
            "options",
            "merging/__init__",
            "merging/driver",
            "merging/common",
            "merging/consensus",
            "merging/sparsify",
            "evaluation/description",
            "evaluation/statistics",
        ),
        merge=merge_file,
        task_vectors=shard_task_vectors,
        discovered=DISCOVERED,
    output:
        task_vector=f"{RESULTS}/merged/{{method}}/{{split}}/{{merge}}/seed{{seed}}/task_vector.safetensors",
        diagnostics=f"{RESULTS}/merged/{{method}}/{{split}}/{{merge}}/seed{{seed}}/diagnostics.csv",
    log:
        f"{LOGS}/merge/{{method}}/{{split}}/{{merge}}/seed{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/merge/{{method}}/{{split}}/{{merge}}/seed{{seed}}.tsv"
    conda:
        ENVS / "model.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        options=merge_options,
        shards=lambda wildcards: json.dumps(list(parts(wildcards.split).values())),
        candidate=merge_description,
    message:
        "Merge the {wildcards.split} shards of {wildcards.method} with {wildcards.merge}, seed {wildcards.seed}"
    shell:
        "python {input.script} --merge {input.merge:q} --options {params.options:q} --shards {params.shards:q}"
        " --candidate {params.candidate:q} --task-vectors {input.task_vectors:q}"
        " --output {output.task_vector:q} --diagnostics {output.diagnostics:q} 2>&1 | tee {log:q}"
