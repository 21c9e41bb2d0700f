# Does unlearning last? One rule for each attack; what it makes is compared and gathered as all evaluations are.
DURABILITY_DATA = f"{RESULTS}/data/durability"
CANDIDATE_DIR = f"{RESULTS}/evaluations/{{candidate}}"
RELEARN = GRID.durability.get("relearn", {})
KNOWLEDGE_BATCH_SIZE = config["evaluations"].get("knowledge", {}).get("batch_size", 1)


rule draw_durability:
    input:
        script=source_file(SCRIPTS / "draw_durability.py"),
        forget=FORGET,
        retain=RETAIN,
        questions=QUESTIONS,
        rephrased=REPHRASED,
        attributes=ATTRIBUTES,
    output:
        relearned=f"{DURABILITY_DATA}/relearned.parquet",
        sampled=f"{DURABILITY_DATA}/sampled.parquet",
        asked=f"{DURABILITY_DATA}/questions.parquet",
        rephrased=f"{DURABILITY_DATA}/rephrased.parquet" if REPHRASED else [],
        rows=f"{DURABILITY_DATA}/durability.csv",
    log:
        f"{LOGS}/draw_durability.log",
    benchmark:
        f"{BENCHMARKS}/draw_durability.tsv"
    conda:
        ENVS / "data.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        library=library("draw_durability.py"),
        experiment=GRID.experiment,
        texts=max(RELEARN.get("texts", [0])),
        most=json.dumps(GRID.durability.get("questions")),
        seed=GRID.durability.get("seed", 0),
    message:
        "Draw the questions and texts that durability is measured with"
    shell:
        python(
            "--experiment {params.experiment} --forget {input.forget:q} --retain {input.retain:q}"
            " --questions {input.questions:q} --rephrased {input.rephrased:q} --attributes {input.attributes:q}"
            " --texts {params.texts} --most {params.most} --seed {params.seed} --relearned {output.relearned:q}"
            " --sampled {output.sampled:q} --asked {output.asked:q} --asked-rephrased {output.rephrased:q}"
            " --rows {output.rows:q}"
        )


# What all attacks are compared with, on the same questions; nothing is asked for it again.
rule as_unlearned:
    input:
        script=source_file(SCRIPTS / "as_unlearned.py"),
        questions=f"{DURABILITY_DATA}/questions.parquet",
        knowledge=f"{CANDIDATE_DIR}/knowledge.parquet",
        attributes=ATTRIBUTES,
    output:
        scores=f"{CANDIDATE_DIR}/as_unlearned.parquet",
        rows=f"{CANDIDATE_DIR}/as_unlearned.csv",
    log:
        f"{LOGS}/as_unlearned/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/as_unlearned/{{candidate}}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        library=library("as_unlearned.py"),
        candidate=JOBS.description,
        budget=JOBS.budget,
    message:
        "Take what {wildcards.candidate} answered before any attack"
    shell:
        python(
            "--evaluations as_unlearned --candidate {params.candidate:q} --budget={params.budget}"
            " --attributes {input.attributes:q} --questions {input.questions:q} --knowledge {input.knowledge:q}"
            " --scores {output.scores:q} --rows {output.rows:q}"
        )


rule quantise:
    input:
        script=source_file(SCRIPTS / "quantise.py"),
        base=JOBS.model,
        task_vector=JOBS.task_vector,
        merged=MERGED,
        strengths=STRENGTHS,
        questions=f"{DURABILITY_DATA}/questions.parquet",
        attributes=ATTRIBUTES,
    output:
        scores=[f"{CANDIDATE_DIR}/{name}.parquet" for name in GRID.attacks["quantise"]],
        rows=[f"{CANDIDATE_DIR}/{name}.csv" for name in GRID.attacks["quantise"]],
    log:
        f"{LOGS}/quantise/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/quantise/{{candidate}}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=1,
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=growing(MEMORY),
        runtime=growing(120),
    params:
        library=library("quantise.py"),
        evaluations=GRID.attacks["quantise"],
        bits=GRID.durability.get("quantise", []),
        batch_size=KNOWLEDGE_BATCH_SIZE,
        candidate=JOBS.description,
        scale=JOBS.scale,
        budget=JOBS.budget,
        dtype=DTYPE,
    message:
        "Quantise {wildcards.candidate}"
    shell:
        on_gpus(
            "--evaluations {params.evaluations}"
            " --candidate {params.candidate:q} --attributes {input.attributes:q} --base {input.base:q}"
            " --task-vector {input.task_vector:q} --scale={params.scale} --dtype {params.dtype}"
            " --strengths {input.strengths:q} --budget={params.budget}"
            " --bits {params.bits} --questions {input.questions:q} --batch-size {params.batch_size}"
            " --scores {output.scores:q} --rows {output.rows:q}"
        )


# Rephrased and open-ended questions in one job: both only ask the model as it is.
rule rephrase:
    input:
        script=source_file(SCRIPTS / "rephrase.py"),
        base=JOBS.model,
        task_vector=JOBS.task_vector,
        merged=MERGED,
        strengths=STRENGTHS,
        questions=f"{DURABILITY_DATA}/questions.parquet",
        rephrased=f"{DURABILITY_DATA}/rephrased.parquet" if REPHRASED else [],
        attributes=ATTRIBUTES,
    output:
        scores=[f"{CANDIDATE_DIR}/{name}.parquet" for name in GRID.attacks["rephrase"]],
        rows=[f"{CANDIDATE_DIR}/{name}.csv" for name in GRID.attacks["rephrase"]],
    log:
        f"{LOGS}/rephrase/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/rephrase/{{candidate}}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=1,
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=growing(MEMORY),
        runtime=growing(120),
    params:
        library=library("rephrase.py"),
        evaluations=GRID.attacks["rephrase"],
        batch_size=KNOWLEDGE_BATCH_SIZE,
        candidate=JOBS.description,
        scale=JOBS.scale,
        budget=JOBS.budget,
        dtype=DTYPE,
    message:
        "Ask {wildcards.candidate} in other words"
    shell:
        on_gpus(
            "--evaluations {params.evaluations}"
            " --candidate {params.candidate:q} --attributes {input.attributes:q} --base {input.base:q}"
            " --task-vector {input.task_vector:q} --scale={params.scale} --dtype {params.dtype}"
            " --strengths {input.strengths:q} --budget={params.budget}"
            " --questions {input.questions:q} --rephrased {input.rephrased:q} --batch-size {params.batch_size}"
            " --scores {output.scores:q} --rows {output.rows:q}"
        )
