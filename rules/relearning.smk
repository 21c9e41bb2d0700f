rule relearn:
    input:
        script=source_file(SCRIPTS / "relearn.py"),
        base=JOBS.model,
        task_vector=JOBS.task_vector,
        merged=MERGED,
        strengths=STRENGTHS,
        texts=f"{DURABILITY_DATA}/relearned.parquet",
        questions=f"{DURABILITY_DATA}/questions.parquet",
        attributes=ATTRIBUTES,
    output:
        scores=[f"{CANDIDATE_DIR}/{name}.parquet" for name in GRID.attacks["relearn"]],
        rows=[f"{CANDIDATE_DIR}/{name}.csv" for name in GRID.attacks["relearn"]],
    log:
        f"{LOGS}/relearn/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/relearn/{{candidate}}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=1,
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=growing(MEMORY),
        runtime=growing(240),
    params:
        library=library("relearn.py"),
        evaluations=GRID.attacks["relearn"],
        options=json.dumps(RELEARN),
        batch_size=KNOWLEDGE_BATCH_SIZE,
        seed=GRID.durability.get("seed", 0),
        candidate=JOBS.description,
        scale=JOBS.scale,
        budget=JOBS.budget,
        dtype=DTYPE,
        unfinished=JOBS.unfinished,
    message:
        "Let {wildcards.candidate} relearn"
    shell:
        on_gpus(
            "--evaluations {params.evaluations}"
            " --candidate {params.candidate:q} --attributes {input.attributes:q} --base {input.base:q}"
            " --task-vector {input.task_vector:q} --scale={params.scale} --dtype {params.dtype}"
            " --strengths {input.strengths:q} --budget={params.budget}"
            " --texts {input.texts:q} --questions {input.questions:q} --batch-size {params.batch_size}"
            " --options {params.options:q} --seed {params.seed} --scores {output.scores:q} --rows {output.rows:q}"
            " --unfinished {params.unfinished:q} --save-every $SPUNGE_SAVE_EVERY"
        )
