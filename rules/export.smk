# Made when asked for by name, since every candidate is as large as the base model, unless it is an adapter.
rule export:
    input:
        script=source_file(SCRIPTS / "export.py"),
        card=source_file(PROJECT / "spunge" / "export" / "card.md"),
        base=JOBS.model,
        task_vector=JOBS.task_vector,
        merged=MERGED,
    output:
        directory(f"{RESULTS}/exports/{{candidate}}"),
    log:
        f"{LOGS}/export/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/export/{{candidate}}.tsv"
    wildcard_constraints:
        candidate=GRID.patterns["candidate"].partition("|")[2],  # the base model is a folder already
    conda:
        ENVS / "model.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        library=library("export.py"),
        scale=JOBS.scale,
        format=config["export"]["format"],
        adapter_rank=config["export"]["adapter_rank"] or "",
        dtype=config["export"]["dtype"] or "",
        max_shard_size=config["export"]["max_shard_size"],
    message:
        "Export {wildcards.candidate} as a "
        + {"model": "Hugging Face folder", "adapter": "PEFT adapter"}[config["export"]["format"]]
    shell:
        python(
            "--candidate {wildcards.candidate} --base {input.base:q} --task-vector {input.task_vector:q}"
            " --scale={params.scale} --format {params.format} --adapter-rank {params.adapter_rank}"
            " --shards @<(printf '%s\\n' {input.merged:q}) --dtype {params.dtype:q}"
            " --max-shard-size {params.max_shard_size:q} --output {output:q}"
        )
