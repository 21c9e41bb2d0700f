# Once for all candidates, so that never two models are in memory.
rule base_activations:
    input:
        script=source_file(SCRIPTS / "base_activations.py"),
        base=JOBS.model,
        texts=f"{DURABILITY_DATA}/sampled.parquet",
    output:
        f"{RESULTS}/evaluations/base/activations.safetensors",
    log:
        f"{LOGS}/base_activations.log",
    benchmark:
        f"{BENCHMARKS}/base_activations.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=1,
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=growing(MEMORY),
        runtime=growing(60),
    params:
        library=library("base_activations.py"),
        dtype=DTYPE,
    message:
        "Compute the base model's activations on the texts to forget"
    shell:
        on_gpus("--base {input.base:q} --dtype {params.dtype} --texts {input.texts:q} --output {output:q}")


rule ablate:
    input:
        script=source_file(SCRIPTS / "ablate.py"),
        base=JOBS.model,
        base_activations=JOBS.base_activations,
        task_vector=JOBS.task_vector,
        merged=MERGED,
        strengths=STRENGTHS,
        texts=f"{DURABILITY_DATA}/sampled.parquet",
        questions=f"{DURABILITY_DATA}/questions.parquet",
        attributes=ATTRIBUTES,
    output:
        scores=f"{CANDIDATE_DIR}/ablated.parquet",
        rows=f"{CANDIDATE_DIR}/ablated.csv",
    log:
        f"{LOGS}/ablate/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/ablate/{{candidate}}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=1,
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=growing(MEMORY),
        runtime=growing(120),
    params:
        library=library("ablate.py"),
        batch_size=KNOWLEDGE_BATCH_SIZE,
        candidate=JOBS.description,
        scale=JOBS.scale,
        budget=JOBS.budget,
        dtype=DTYPE,
    message:
        "Ablate the direction of {wildcards.candidate}"
    shell:
        on_gpus(
            "--evaluations ablated --candidate {params.candidate:q}"
            " --attributes {input.attributes:q} --base {input.base:q} --task-vector {input.task_vector:q}"
            " --scale={params.scale} --dtype {params.dtype}"
            " --strengths {input.strengths:q} --budget={params.budget} --base-activations {input.base_activations:q}"
            " --texts {input.texts:q} --questions {input.questions:q} --batch-size {params.batch_size}"
            " --scores {output.scores:q} --rows {output.rows:q}"
        )
