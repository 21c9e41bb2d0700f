"""What methods, merges and classifiers are called in tables and figures: as papers write them.

Any other name of the configuration stands as it is.
"""

NAMES = {
    "rmu": "RMU",
    "tvn": "TVN",
    "gradient_ascent": "gradient ascent",
    "gradient_difference": "gradient difference",
    "npo": "NPO",
    "simnpo": "SimNPO",
    "random_vector": "random vector",
    "ties": "TIES",
    "linear": "mean",
    "task_arithmetic": "task arithmetic",
    "dare": "DARE",
    "dare_linear": "DARE-linear",
    "dare_ties": "DARE-TIES",
    "negmerge": "NegMerge",
    "tsv": "TSV",
    "della": "DELLA",
    "breadcrumbs": "Model Breadcrumbs",
    "sce": "SCE",
    "profanity_check": "profanity check",
    "word_list": "word list",
    "tox_block": "tox-block",
    "tox_block_by_kind": "tox-block by kind",
}


def display_name(name: str) -> str:
    """Return the name of a method, merge or classifier as papers write it (`ties`: TIES)."""
    return NAMES.get(name, name)
