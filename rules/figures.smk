SUMMARY = [f"{RESULTS}/summary.{suffix}" for suffix in ("csv", "md", "tex", "html")]
FINDINGS = f"{RESULTS}/findings.html"
EXPLORE = f"{RESULTS}/explore.html"
COMPARISON = f"{RESULTS}/comparison.html" if TOXICITY or "benchmarks" in config["evaluations"] else []
FIGURES = collect("{results}/figures/{figure}.{suffix}", results=RESULTS, figure=[*GRID.figures], suffix=["pdf", "png"])


rule figure:
    input:
        script=source_file(SCRIPTS / "figure.py"),
        figure=source_file(PROJECT / "spunge" / "report" / "figures" / "{figure}.py"),
        evaluations=EVALUATIONS,
    output:
        pdf=f"{RESULTS}/figures/{{figure}}.pdf",
        png=report(
            f"{RESULTS}/figures/{{figure}}.png",
            category="Figures",
            caption=CAPTIONS / "figure.rst",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{LOGS}/figure/{{figure}}.log",
    benchmark:
        f"{BENCHMARKS}/figure/{{figure}}.tsv"
    conda:
        ENVS / "report.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        library=library("figure.py"),
        figure_library=JOBS.figure_library,
        caption=lambda wildcards: GRID.figures[wildcards.figure],
    message:
        "Draw {wildcards.figure}"
    shell:
        python(
            "--figure {wildcards.figure} --evaluations {input.evaluations:q} --pdf {output.pdf:q}"
            " --png {output.png:q}"
        )


rule summary:
    input:
        script=source_file(SCRIPTS / "summarise.py"),
        evaluations=EVALUATIONS,
    output:
        csv=f"{RESULTS}/summary.csv",
        markdown=f"{RESULTS}/summary.md",
        latex=f"{RESULTS}/summary.tex",
        html=report(
            f"{RESULTS}/summary.html",
            category="Tables",
            caption=CAPTIONS / "summary.rst",
            labels={"table": "summary"},
        ),
    log:
        f"{LOGS}/summary.log",
    benchmark:
        f"{BENCHMARKS}/summary.tsv"
    conda:
        ENVS / "report.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        library=library("summarise.py"),
    message:
        "Write the summary table"
    shell:
        python(
            "--evaluations {input.evaluations:q} --csv {output.csv:q} --markdown {output.markdown:q}"
            " --latex {output.latex:q} --html {output.html:q}"
        )


rule findings:
    input:
        script=source_file(SCRIPTS / "findings.py"),
        template=source_file(PROJECT / "report" / "findings.html"),
        sentences=source_file(PROJECT / "spunge" / "report" / "findings.txt"),
        evaluations=EVALUATIONS,
        figure=f"{RESULTS}/figures/{GRID.leading_figure}.png",
    output:
        report(
            FINDINGS, category="Findings", caption=CAPTIONS / "findings.rst", labels={"page": "does the split help?"}
        ),
    log:
        f"{LOGS}/findings.log",
    benchmark:
        f"{BENCHMARKS}/findings.tsv"
    conda:
        ENVS / "report.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        library=library("findings.py"),
    message:
        "Say what was found"
    shell:
        python(
            "--evaluations {input.evaluations:q} --figure {input.figure:q} --template {input.template:q}"
            " --html {output:q}"
        )


rule explore:
    input:
        script=source_file(SCRIPTS / "explore.py"),
        template=source_file(PROJECT / "report" / "explore.html"),
        functions=source_file(PROJECT / "report" / "explore.js"),
        evaluations=EVALUATIONS,
    output:
        report(
            EXPLORE, category="Findings", caption=CAPTIONS / "explore.rst", labels={"page": "walk through the results"}
        ),
    log:
        f"{LOGS}/explore.log",
    benchmark:
        f"{BENCHMARKS}/explore.tsv"
    conda:
        ENVS / "report.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        library=library("explore.py"),
    message:
        "Make the page to walk through the results"
    shell:
        python(
            "--evaluations {input.evaluations:q} --template {input.template:q} --script {input.functions:q}"
            " --html {output:q}"
        )


rule comparison:
    input:
        script=source_file(SCRIPTS / "comparison_page.py"),
        template=source_file(PROJECT / "report" / "comparison.html"),
        anchors=source_file(PROJECT / "report" / "anchors.csv"),
        evaluations=EVALUATIONS,
    output:
        report(
            f"{RESULTS}/comparison.html",
            category="Findings",
            caption=CAPTIONS / "comparison.rst",
            labels={"page": "beside published numbers"},
        ),
    log:
        f"{LOGS}/comparison.log",
    benchmark:
        f"{BENCHMARKS}/comparison.tsv"
    conda:
        ENVS / "report.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        library=library("comparison_page.py"),
        model=lambda wildcards: config["model"]["source"],  # may have braces
    message:
        "Put published numbers beside ours"
    shell:
        python(
            "--evaluations {input.evaluations:q} --anchors {input.anchors:q} --model={params.model:q}"
            " --template {input.template:q} --html {output:q}"
        )
