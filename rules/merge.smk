# Whether mergekit makes a merge; its environment is then that of all merges.
MERGEKIT = any(section["merge"] == "mergekit" for section in config["merges"].values())


rule merge:
    input:
        script=source_file(SCRIPTS / "merge.py"),
        task_vectors=JOBS.shard_task_vectors,
        tuning=JOBS.merge_tuning if GRID.tunes_merges else [],
        attributes=ATTRIBUTES,
    output:
        task_vector=f"{RESULTS}/merged/{{merge}}/task_vector.safetensors",
        diagnostics=f"{RESULTS}/merged/{{merge}}/diagnostics.csv",
    log:
        f"{LOGS}/merge/{{merge}}.log",
    benchmark:
        f"{BENCHMARKS}/merge/{{merge}}.tsv"
    conda:
        ENVS / "mergekit.yaml" if MERGEKIT else ENVS / "model.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        library=library("merge.py"),
        kind=JOBS.merge_kind,
        options=JOBS.merge_options,
        candidate=JOBS.merge_description,
    message:
        "Merge {wildcards.merge}"
    shell:
        python(
            "--merge {params.kind} --options <(printf '%s' {params.options:q}) --attributes {input.attributes:q}"
            " --tuning {input.tuning:q} --candidate {params.candidate:q} --task-vectors @<(printf '%s\\n' {input.task_vectors:q})"
            " --output {output.task_vector:q} --diagnostics {output.diagnostics:q}"
        )
