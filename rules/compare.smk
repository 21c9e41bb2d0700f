# All candidates' files reach a script as a list that it reads, one path a line: with hundreds of shards and ten seeds
# they would exceed what a system lets a command line be. printf is bash's own, to which no such limit holds.
rule compare:
    input:
        script=source_file(SCRIPTS / "compare.py"),
        scores=JOBS.scores,
        attributes=ATTRIBUTES,
    output:
        f"{RESULTS}/comparisons/{{evaluation}}.csv",
    log:
        f"{LOGS}/compare/{{evaluation}}.log",
    benchmark:
        f"{BENCHMARKS}/compare/{{evaluation}}.tsv"
    conda:
        ENVS / "report.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        library=library("compare.py"),
        metrics=JOBS.metrics,
        seeds=GRID.seeds,
        budgets=JOBS.budgets_of_evaluation,
    message:
        "Combine the seeds and compare the candidates' {wildcards.evaluation}"
    shell:
        python(
            "--evaluation {wildcards.evaluation} --metrics {params.metrics:q} --seeds {params.seeds}"
            " --budgets {params.budgets}"
            " --attributes {input.attributes:q} --scores @<(printf '%s\\n' {input.scores:q}) --output {output:q}"
        )


rule gather:
    input:
        script=source_file(SCRIPTS / "gather.py"),
        rows=JOBS.rows,
    output:
        report(
            EVALUATIONS, category="Tables", caption=CAPTIONS / "evaluations.rst", labels={"table": "all evaluations"}
        ),
    log:
        f"{LOGS}/gather.log",
    benchmark:
        f"{BENCHMARKS}/gather.tsv"
    conda:
        ENVS / "report.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        library=library("gather.py"),
    message:
        "Gather all evaluations in one table"
    shell:
        python("--output {output:q} --rows @<(printf '%s\\n' {input.rows:q})")
