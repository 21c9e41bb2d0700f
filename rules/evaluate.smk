# All evaluations of a candidate in one job: to start the libraries and to load the model takes as long as a short one.
rule evaluate:
    input:
        script=SCRIPTS / "evaluate.py",
        library=library(
            "models",
            "task_vector",
            "safetensors_stream",
            "progress",
            "datasets/tables",
            "evaluation/statistics",
            "evaluation/shared_context",
        ),
        evaluations=[PROJECT / "spunge" / "evaluation" / f"{name}.py" for name in EVALUATION_NAMES],
        base=MODEL,
        task_vector=candidate_task_vector,
        data=[EVALUATION_DATA[name] for name in EVALUATION_NAMES],
        attributes=ATTRIBUTES,
    output:
        scores=[f"{RESULTS}/evaluations/{{candidate}}/{name}.parquet" for name in EVALUATION_NAMES],
        rows=[f"{RESULTS}/evaluations/{{candidate}}/{name}.csv" for name in EVALUATION_NAMES],
    log:
        f"{LOGS}/evaluate/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/evaluate/{{candidate}}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        evaluations=json.dumps(config["evaluations"]),
        statistics=json.dumps(config["statistics"]),
        candidate=candidate_description,
        scale=candidate_scale,
        dtype=config["model"]["dtype"],
    message:
        "Evaluate {wildcards.candidate}"
    shell:
        "python {input.script} --evaluations {params.evaluations:q} --dtype {params.dtype}"
        " --statistics {params.statistics:q} --candidate {params.candidate:q} --base {input.base:q}"
        " --task-vector {input.task_vector:q} --scale {params.scale} --data {input.data:q} --attributes {input.attributes:q}"
        " --scores {output.scores:q} --rows {output.rows:q} 2>&1 | tee {log:q}"


rule compare:
    input:
        script=SCRIPTS / "compare.py",
        library=library("evaluation/statistics"),
        scores=scores,
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
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        statistics=json.dumps(config["statistics"]),
    message:
        "Combine the seeds and compare the candidates' {wildcards.evaluation}"
    shell:
        "python {input.script} --evaluation {wildcards.evaluation} --statistics {params.statistics:q}"
        " --attributes {input.attributes:q} --scores {input.scores:q} --output {output:q} 2>&1 | tee {log:q}"


rule gather:
    input:
        script=SCRIPTS / "gather.py",
        library=library(),
        rows=all_rows,
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
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    message:
        "Gather all evaluations in one table"
    shell:
        "python {input.script} --output {output:q} --rows {input.rows:q} 2>&1 | tee {log:q}"
