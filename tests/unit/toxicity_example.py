"""An evaluations table of a toxicity experiment as the workflow writes it; every number in it is made up.

What a test can rely on, for a method with the factor λ of a family (all exact, seeds combined):

- toxic share of a group by the first classifier: base share × REMAINING ** λ; by the second one: WORD_LIST times that;
- perplexity: PERPLEXITY × PERPLEXITY_RATIO ** λ;
- single seeds spread evenly about these values, by SEED_SPREAD of them from one seed to the next;
- exactly the candidates in BROKEN are broken, by perplexity or by distinct bigrams.
"""

import numpy
import pandas
from evaluations_example import p_value

from spunge.report.results_table import NUMBER_COLUMNS, TEXT_COLUMNS

GROUPS = ("insult", "profanity", "threat", "flirtation")
RETAIN = ("Americas", "Europe")
SEEDS = ("0", "1", "2")
CLASSIFIERS = ("profanity_check", "word_list")
FAMILIES = {"tvn": {"tvn": 1.0, "tvn-half": 0.5, "tvn-quarter": 0.25}, "rmu": {"rmu": 1.0}}

BASE_SHARES = (0.10, 0.24, 0.16, 0.30)  # of the groups in turn
NEUTRAL = 0.1  # toxic share of the neutral prompts, relative to that of the toxic ones
WORD_LIST = 0.5
PERPLEXITY = 40.0
DISTINCT = 0.8
SEED_SPREAD = 0.08
PROMPTS = 30

# At λ = 1: split, merge → what is left of the toxic share, and the perplexity relative to the base model's.
REMAINING = {
    "tvn": {
        "joint": 0.40,
        "random/merge/ties": 0.36,
        "attribute/merge/ties": 0.25,
        "random/merge/linear": 0.50,
        "attribute/merge/linear": 0.42,
    },
    "rmu": {
        "joint": 0.80,
        "random/merge/ties": 0.85,
        "attribute/merge/ties": 0.70,
        "random/merge/linear": 0.90,
        "attribute/merge/linear": 0.8,
    },
}
PERPLEXITY_RATIO = {
    "tvn": {
        "joint": 2.60,
        "random/merge/ties": 1.90,
        "attribute/merge/ties": 1.60,
        "random/merge/linear": 1.7,
        "attribute/merge/linear": 1.40,
    },
    "rmu": {
        "joint": 1.08,
        "random/merge/ties": 1.05,
        "attribute/merge/ties": 1.02,
        "random/merge/linear": 1.0,
        "attribute/merge/linear": 1.01,
    },
}
REPETITIVE = "rmu/joint"  # says the same again and again: distinct bigrams fall to REPETITIVE_DISTINCT
REPETITIVE_DISTINCT = 0.3
BROKEN = {"tvn/joint": "perplexity", "rmu/joint": "distinct_2"}
ACCURACY = {"base": 0.80, "tvn": 0.74, "rmu": 0.78}  # on every retain attribute, at λ = 1; seeds spread about it


def remaining(family: str, split: str, merge: str = "", scale: float = 1.0) -> float:
    """Return the share of the base model's toxicity that is left."""
    return REMAINING[family][f"{split}/merge/{merge}" if merge else split] ** scale


def perplexity(family: str, split: str, merge: str = "", scale: float = 1.0) -> float:
    """Return the perplexity with seeds combined."""
    return PERPLEXITY * PERPLEXITY_RATIO[family][f"{split}/merge/{merge}" if merge else split] ** scale


def example(
    families=FAMILIES,
    merges=("ties", "linear"),
    groups=GROUPS,
    retain=RETAIN,
    seeds=SEEDS,
    classifiers=CLASSIFIERS,
    shards=False,
    neutral_groups=True,
    benign=False,
) -> pandas.DataFrame:
    """Return the table of families (name → method → λ) of `tvn` and `rmu`; `merges` of `ties` and `linear`.

    retain: none leaves out `knowledge`. shards: with single shards, which lack what the others unlearned.
    neutral_groups: whether neutral prompts belong to groups, or all to none. benign: with harmless texts about the
    groups, of twice the perplexity of prose.
    """
    rows = []
    base = ("base", "", "", "", "")

    def add(candidate, seed, evaluation, attribute, metric, value, spread=None, n=PROMPTS, shard=None):
        path, method, split, own_shard, merge = candidate
        low, high = (None, None) if spread is None else (value - spread, value + spread)
        suffix = "" if seed == "all" or evaluation == "method" else f"/seed{seed}"
        names = (path + suffix, method, split, own_shard if shard is None else shard, merge, seed, "")
        numbers = (value, low, high, p_value(value, spread), n)
        rows.append(("toxic-example", *names, evaluation, attribute, metric, *numbers))

    def of_seed(value, seed):
        if seed == "all":
            return value
        return value * (1 + SEED_SPREAD * (seeds.index(seed) - (len(seeds) - 1) / 2))

    def base_share(group):
        return BASE_SHARES[groups.index(group) % len(BASE_SHARES)]

    def toxicity(evaluation, share_of, distinct, empty, seed):
        """Return metric → attribute → value, given the toxic share of each group."""
        scaled = NEUTRAL if evaluation == "toxicity_neutral" else 1.0
        named = evaluation == "toxicity" or neutral_groups
        shares = {group: of_seed(scaled * share_of(group), seed) for group in groups}
        if not named:
            shares = {"": float(numpy.mean(list(shares.values())))}
        else:
            shares["forget mean"] = float(numpy.mean(list(shares.values())))
        values = {}
        for number, name in enumerate(classifiers):
            own = {attribute: share * WORD_LIST**number for attribute, share in shares.items()}
            values[f"toxic_share_{name}"] = own
            values[f"mean_score_{name}"] = {attribute: 0.9 * share for attribute, share in own.items()}
            values[f"expected_maximum_toxicity_{name}"] = {attribute: 1.5 * share for attribute, share in own.items()}
            values[f"toxicity_probability_{name}"] = {attribute: 1.25 * share for attribute, share in own.items()}
        values["distinct_2"] = dict.fromkeys(shares, distinct)
        values["empty_share"] = dict.fromkeys(shares, empty)
        values["tokens"] = dict.fromkeys(shares, 20.0)
        values["samples"] = dict.fromkeys(shares, 25.0)
        return values

    def accuracies(method, scale, seed):
        start = ACCURACY["base"]
        value = start if not method else of_seed(start + scale * (ACCURACY[method] - start), seed)
        return dict.fromkeys((*retain, "retain mean"), value)

    # path without its seed → (candidate, family, λ, split, merge), in the order of the real table
    compared = {}

    def numbers(path, seed):
        """Return (evaluation, metric) → attribute → (value, n) of a candidate."""
        if path == "base":
            family, shares, fluency, distinct, empty = "", base_share, PERPLEXITY, DISTINCT, 0.01
            scale, seed = 0.0, "all"
        else:
            (_, _, split, shard, merge), family, scale = compared[path]
            like = (split, merge) if split == "joint" or merge else ("attribute", "ties")

            def shares(group):
                left = remaining(family, *like, scale)
                return base_share(group) * (left if not shard or group == shard else left**0.5)

            fluency = of_seed(perplexity(family, *like, scale), seed)
            distinct, empty = DISTINCT * (1 - 0.2 * scale), 0.01 + 0.05 * scale
            if path == REPETITIVE:
                distinct = REPETITIVE_DISTINCT
        found = {}
        for evaluation in ("toxicity", "toxicity_neutral"):
            for metric, values in toxicity(evaluation, shares, distinct, empty, seed).items():
                found[evaluation, metric] = {
                    attribute: (value, PROMPTS * (1 if attribute in groups else len(groups)))
                    for attribute, value in values.items()
                }
        if retain:
            for metric in ("accuracy", "accuracy_norm"):
                found["knowledge", metric] = {
                    attribute: (value, 50 * (1 if attribute in retain else len(retain)))
                    for attribute, value in accuracies(family, scale, seed).items()
                }
        found["fluency", "perplexity"] = {"": (fluency, 400)}
        if benign:
            found["benign", "perplexity"] = dict.fromkeys((*groups, "forget mean"), (2 * fluency, 50))
        return found

    def width(metric, value):
        return 0.02 if metric.startswith("accuracy") else 0.05 * value if metric == "perplexity" else 0.15 * value

    def evaluate(candidate):
        path, _, split, _, merge = candidate
        rivals = {"base": "base"} if path != "base" else {}
        if split and split != "joint":
            rivals["joint"] = f"{candidate[1]}/joint"
        if split == "attribute" and merge:
            rivals["random"] = f"{candidate[1]}/random/merge/{merge}"
        for seed in ("all",) if path == "base" else (*seeds, "all"):
            against = {name: numbers(rival, seed) for name, rival in rivals.items()}
            for (evaluation, metric), values in numbers(path, seed).items():
                for attribute, (value, n) in values.items():
                    add(candidate, seed, evaluation, attribute, metric, value, width(metric, value), n)
                for name, other in against.items():
                    for attribute, (value, n) in values.items():
                        own, theirs = value, other[evaluation, metric][attribute][0]
                        spread = 0.1 * max(abs(own), abs(theirs))
                        add(
                            candidate,
                            seed,
                            evaluation,
                            attribute,
                            f"{metric}_minus_{name}",
                            own - theirs,
                            spread,
                            n,
                        )

    parts = [f"part{number}" for number in range(1, len(groups) + 1)]
    for family, methods in families.items():
        for method, scale in methods.items():
            described = [(f"{method}/joint", method, "joint", "", "")]
            if shards:
                described += [(f"{method}/attribute/shard/{group}", method, "attribute", group, "") for group in groups]
            for split in ("attribute", "random"):
                described += [(f"{method}/{split}/merge/{merge}", method, split, "", merge) for merge in merges]
            for candidate in described:
                compared[candidate[0]] = candidate, family, scale

    for group in groups:
        add(base, "all", "data", group, "forget_texts", 70, n=70)
        add(base, "all", "data", group, "toxic_prompts", PROMPTS)
        if neutral_groups:
            add(base, "all", "data", group, "neutral_prompts", PROMPTS)
    if not neutral_groups:
        add(base, "all", "data", "", "neutral_prompts", PROMPTS * len(groups), n=PROMPTS * len(groups))
    for attribute in retain:
        add(base, "all", "data", attribute, "questions", 50, n=50)
        add(base, "all", "data", attribute, "subjects", 50, n=50)

    evaluate(base)
    for candidate, _, _ in compared.values():
        evaluate(candidate)

    for family, methods in families.items():
        for method, scale in methods.items():
            add((method, method, "", "", ""), "all", "method", family, "scale", scale, n=1)

    trained = [next(iter(methods)) for methods in families.values()]
    for method in trained:
        runs = [(f"{method}/joint", method, "joint", "", "", len(groups))]
        for group, part in zip(groups, parts, strict=True):
            runs.append((f"{method}/attribute/shard/{group}", method, "attribute", group, "", 1))
            runs.append((f"{method}/random/shard/{part}", method, "random", part, "", 1))
        for *run, length in runs:
            for seed in seeds:
                for step in range(5, 30 * length + 1, 5):
                    loss = of_seed(2.0 + numpy.exp(-step / 20), seed)
                    add(tuple(run), seed, "training", "", "forget_loss", loss, n=step)
        for merge in merges:
            for split, own in (("attribute", groups), ("random", parts)):
                candidate = (f"{method}/{split}/merge/{merge}", method, split, "", merge)
                for seed in seeds:
                    for position, shard in enumerate(own):
                        add(candidate, seed, "merge", "", "kept_share", 0.5, shard=shard)
                        add(candidate, seed, "merge", "", "norm", 3.0 + position, shard=shard)
                        for other in own[position + 1 :]:
                            add(candidate, seed, "merge", other, "cosine", 0.6, shard=shard)
                    add(candidate, seed, "merge", "", "sign_conflict", 0.3)
                    add(candidate, seed, "merge", "", "norm", 3.5)
    return pandas.DataFrame(rows, columns=[*TEXT_COLUMNS, *NUMBER_COLUMNS])
