rule merge:
    input:
        script=source_file(SCRIPTS / "merge.py"),
        library=library(
            "task_vector",
            "safetensors_stream",
            "options",
            "splits",
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
        attributes=ATTRIBUTES,
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
        candidate=merge_description,
    message:
        "Merge the {wildcards.split} shards of {wildcards.method} with {wildcards.merge}, seed {wildcards.seed}"
    shell:
        "python {input.script:q} --merge {input.merge:q} --options <(printf '%s' {params.options:q}) --attributes {input.attributes:q}"
        " --candidate {params.candidate:q} --task-vectors @<(printf '%s\\n' {input.task_vectors:q})"
        " --output {output.task_vector:q} --diagnostics {output.diagnostics:q} 2>&1 | tee {log:q}"
