from spunge.planning import jobs as plan_jobs


localrules:
    plan,


# Asked for by name, before a run: it reads what is there, makes nothing and waits for nothing. No table of it is kept, since
# it changes with what has run.
rule plan:
    input:
        script=source_file(SCRIPTS / "plan.py"),
        library=library("plan.py"),
    log:
        f"{LOGS}/plan.log",
    conda:
        ENVS / "report.yaml"
    resources:
        mem_mb=500,
        runtime=5,
    params:
        plan=lambda wildcards: json.dumps(plan_jobs.describe(JOBS, plan_jobs.known_attributes(JOBS))),
    message:
        "Plan the run"
    shell:
        python("--plan <(printf '%s' {params.plan:q})")
