# By itself, so that another classifier makes no model write again.
rule score_toxicity:
    input:
        script=source_file(SCRIPTS / "score_toxicity.py"),
        continuations=CONTINUATIONS,
        prompts=JOBS.prompts,
        classifiers=JOBS.classifier_files,
        attributes=ATTRIBUTES,
    output:
        scores=[f"{RESULTS}/evaluations/{{candidate}}/{name}.parquet" for name in ("toxicity", "toxicity_neutral")],
        rows=[f"{RESULTS}/evaluations/{{candidate}}/{name}.csv" for name in ("toxicity", "toxicity_neutral")],
    log:
        f"{LOGS}/score_toxicity/{{candidate}}.log",
    benchmark:
        f"{BENCHMARKS}/score_toxicity/{{candidate}}.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=JOBS.classifier_gpus,
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=growing(MEMORY),
        runtime=growing(60),
    params:
        library=library("score_toxicity.py"),
        classifiers=JOBS.classifier_options,
        files=JOBS.classifier_arguments,
        candidate=JOBS.description,
    message:
        "Score what {wildcards.candidate} wrote"
    shell:
        on_gpus(
            "--continuations {input.continuations:q} --prompts {input.prompts:q}"
            " --classifiers {params.classifiers:q} {params.files:q}"
            " --candidate {params.candidate:q} --attributes {input.attributes:q}"
            " --toxic-scores {output.scores[0]:q} --toxic-rows {output.rows[0]:q}"
            " --neutral-scores {output.scores[1]:q} --neutral-rows {output.rows[1]:q}"
        )


# What the classifiers miss stands beside every result that rests on them.
rule validate_classifiers:
    input:
        script=source_file(SCRIPTS / "validate_classifiers.py"),
        rated=JOBS.rated_texts,
        forget=FORGET if BENIGN else [],
        benign=BENIGN,
        classifiers=JOBS.classifier_files,
    output:
        f"{RESULTS}/evaluations/classifiers.csv",
    log:
        f"{LOGS}/validate_classifiers.log",
    benchmark:
        f"{BENCHMARKS}/validate_classifiers.tsv"
    conda:
        ENVS / "evaluate.yaml"
    resources:
        gpu=JOBS.classifier_gpus,
        gpu_mem_mb=GPU_MEMORY,
        mem_mb=growing(MEMORY),
        runtime=growing(30),
    params:
        library=library("validate_classifiers.py"),
        classifiers=JOBS.classifier_options,
        files=JOBS.classifier_arguments,
        experiment=GRID.experiment,
    message:
        "Try the classifiers on texts of which it is known whether they are toxic"
    shell:
        on_gpus(
            "--rated {input.rated:q} --forget {input.forget:q} --benign {input.benign:q}"
            " --classifiers {params.classifiers:q} {params.files:q}"
            " --experiment {params.experiment} --output {output:q}"
        )
