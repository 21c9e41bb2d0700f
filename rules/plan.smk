# Asked for by name, before a run: it reads what is there, makes nothing and waits for nothing. No table of it is kept, since
# it changes with what has run.
rule plan:
    input:
        script=source_file(SCRIPTS / "plan.py"),
        template=source_file(PROJECT / "report" / "plan.txt"),
    log:
        f"{LOGS}/plan.log",
    localrule: True
    conda:
        ENVS / "report.yaml"
    resources:
        mem_mb=500,
        runtime=5,
    params:
        library=library("plan.py"),
        config=lambda wildcards: json.dumps(config),  # a plain value would have braces expanded
    message:
        "Plan the run"
    shell:
        python("--config <(printf '%s' {params.config:q}) --template {input.template:q}")
