"""An evaluations table with every attack: the accuracies of `evaluations_example`, and a part of what was lost back."""

import pandas
from evaluations_example import example

BEFORE = "as_unlearned"
BACK = {
    "relearned_forget_10": 0.4,
    "relearned_forget_50": 0.8,
    "relearned_other_10": 0.3,
    "relearned_other_50": 0.5,
    "relearned_unrelated_10": 0.0,
    "relearned_unrelated_50": 0.1,
    "quantised_8": 0.0,
    "quantised_4": 0.1,
    "rephrased": 0.05,
    "open_ended": -0.2,
    "ablated": 0.5,
}
CHANCE = 0.25


def attacked(attacks=tuple(BACK), chance=True, **options) -> pandas.DataFrame:
    """Return `example(**options)` and what each attack brings back of it; rows of chance where it is known."""
    table = example(**options)
    knowledge = table[(table["evaluation"] == "knowledge") & table["metric"].str.match("accuracy($|_minus)")]
    knowledge = knowledge[knowledge["shard"] == ""]
    parts = [table]
    for name in (BEFORE, *attacks):
        own = knowledge.assign(evaluation=name)
        back = BACK.get(name, 0.0) * (own["method"] != "") * (own["metric"] == "accuracy")
        for column in ("value", "low", "high"):
            own[column] = own[column] + back * (0.8 - knowledge["value"])
        parts.append(own)
    if chance:
        asked = table[(table["evaluation"] == "data") & (table["metric"] == "questions")]
        parts.append(asked.assign(evaluation="durability", metric="chance", value=CHANCE))
    return pandas.concat(parts, ignore_index=True)
