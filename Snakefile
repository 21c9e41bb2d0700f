from snakemake.utils import min_version

min_version("9.27")

# An experiment is one whole file: the default is read only where no other was named, so that the two never mix.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


include: "rules/common.smk"


container: config["container"]


report: "report/workflow.rst"


include: "rules/data.smk"
include: "rules/model.smk"
include: "rules/unlearn.smk"
include: "rules/merge.smk"
include: "rules/evaluate.smk"
include: "rules/toxicity.smk"
include: "rules/benchmarks.smk"
include: "rules/durability.smk"
include: "rules/relearning.smk"
include: "rules/ablation.smk"
include: "rules/compare.smk"
include: "rules/figures.smk"
include: "rules/export.smk"
include: "rules/plan.smk"


rule all:
    default_target: True
    input:
        EVALUATIONS,
        SUMMARY,
        FINDINGS,
        EXPLORE,
        COMPARISON,
        FIGURES,


rule tables:
    input:
        SUMMARY,
        FINDINGS,
        EXPLORE,
        COMPARISON,


rule figures:
    input:
        FIGURES,
