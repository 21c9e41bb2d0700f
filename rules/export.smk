EXPORTABLE = GRID.patterns["candidate"].partition("|")[2]  # the base model is a folder already


# Made when asked for by name, since every candidate is as large as the base model, unless it is an adapter.
rule export:
    input:
        script=source_file(SCRIPTS / "export.py"),
        card=source_file(PROJECT / "spunge" / "export" / "card.md"),
        base=JOBS.model,
        task_vector=JOBS.task_vector,
        merged=MERGED,
        strengths=STRENGTHS if config["export"]["budget"] else [],
    output:
        directory(f"{RESULTS}/exports/{{candidate}}"),
    log:
        f"{LOGS}/export/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/export/{{candidate}}.tsv"
    wildcard_constraints:
        candidate=EXPORTABLE,
    conda:
        ENVS / "model.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        library=library("export.py"),
        scale=JOBS.scale,
        budget=config["export"]["budget"] or "",
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
            " --scale={params.scale} --strengths {input.strengths:q} --budget={params.budget}"
            " --format {params.format} --adapter-rank {params.adapter_rank}"
            " --shards @<(printf '%s\\n' {input.merged:q}) --dtype {params.dtype:q}"
            " --max-shard-size {params.max_shard_size:q} --output {output:q}"
        )


# Where Snakemake runs, since the network and HF_TOKEN are there; the token is in no input, parameter or command.
rule publish:
    input:
        script=source_file(SCRIPTS / "publish.py"),
        card=source_file(PROJECT / "spunge" / "export" / "results.md"),
        exported=rules.export.output,
        evaluations=EVALUATIONS,
    output:
        f"{RESULTS}/published/{{candidate}}.json",
    log:
        f"{LOGS}/publish/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/publish/{{candidate}}.tsv"
    wildcard_constraints:
        candidate=EXPORTABLE,
    localrule: True
    conda:
        ENVS / "report.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(240),
    params:
        library=library("publish.py"),
        repository=JOBS.repository,
        budget=config["export"]["budget"] or "",
        public="" if config["publish"]["private"] else "--public",
    message:
        "Publish {wildcards.candidate} in {params.repository}"
    shell:
        python(
            "--candidate {wildcards.candidate} --budget={params.budget} --export {input.exported:q}"
            " --evaluations {input.evaluations:q} --repository {params.repository:q} {params.public} --output {output:q}"
        )
