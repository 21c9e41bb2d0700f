"""An evaluations table as the workflow writes it, with the prototype's accuracies where it had any."""

from statistics import NormalDist

import numpy
import pandas

from spunge.report.results_table import NUMBER_COLUMNS, TEXT_COLUMNS

# Accuracy by attribute, one pair per candidate: seed 0 and seed 1 (docs of the prototype; single shards are made up).
ACCURACY = {
    "base": {"Africa": (0.704,), "Asia": (0.896,), "Americas": (0.815,), "Europe": (0.842,)},
    "joint": {"Africa": (0.222, 0.222), "Asia": (0.188, 0.271), "Americas": (0.778, 0.444), "Europe": (0.842, 0.421)},
    "random": {"Africa": (0.241, 0.333), "Asia": (0.333, 0.229), "Americas": (0.630, 0.519), "Europe": (0.868, 0.684)},
    "attribute": {
        "Africa": (0.222, 0.222),
        "Asia": (0.271, 0.312),
        "Americas": (0.667, 0.630),
        "Europe": (0.895, 0.842),
    },
    "only Africa": {"Africa": (0.22, 0.24), "Asia": (0.52, 0.50), "Americas": (0.74, 0.70), "Europe": (0.87, 0.84)},
    "only Asia": {"Africa": (0.46, 0.41), "Asia": (0.21, 0.27), "Americas": (0.78, 0.70), "Europe": (0.84, 0.82)},
}
PERPLEXITY = {"base": (40.2,), "joint": (40.8, 40.6), "random": (41.6, 41.2), "attribute": (40.9, 41.0)}
MEANS = ("forget mean", "retain mean", "retain minus forget")


def example(
    methods=("rmu",),
    merges=("ties",),
    forget=("Africa", "Asia"),
    retain=("Americas", "Europe"),
    seeds=("0", "1"),
    shards=(),
    budgets=(),
    ordered=(),
) -> pandas.DataFrame:
    """Return a whole evaluations table; attributes and seeds that the prototype lacked get made-up numbers.

    With budgets (`kl=0.01`) the candidates are measured at each, and their mean is the prototype's number: accuracy on
    what is to be forgotten falls by 5 points from each budget to the next. `ordered` are further splits of one run on
    all texts, with made-up numbers.
    """
    rows = []

    def add(candidate, seed, evaluation, attribute, metric, value, spread=None, n=50, shard=None):
        path, method, split, own_shard, merge = candidate
        low, high = (None, None) if spread is None else (value - spread, value + spread)
        suffix = "" if seed == "all" else f"/seed{seed}"
        names = (path + suffix, method, split, own_shard if shard is None else shard, merge, seed, "")
        rows.append(("example", *names, evaluation, attribute, metric, value, low, high, p_value(value, spread), n))

    base = ("base", "", "", "", "")
    for attribute in (*forget, *retain):
        if attribute in forget:
            add(base, "all", "data", attribute, "forget_texts", 336, n=336)
        add(base, "all", "data", attribute, "questions", 48, n=48)
        add(base, "all", "data", attribute, "subjects", 48, n=48)

    def accuracies(kind, seed):
        """One accuracy per attribute, then the two means and their difference."""
        values = {}
        for position, attribute in enumerate((*forget, *retain)):
            known = ACCURACY.get(kind, {}).get(attribute, ())
            number = 0 if kind == "base" else seeds.index(seed)
            made_up = numpy.random.default_rng([position, number, len(kind)]).uniform(0.2, 0.35)
            kept = kind == "base" or attribute in retain
            values[attribute] = known[number] if number < len(known) else made_up + 0.5 * kept
        values["forget mean"] = numpy.mean([values[attribute] for attribute in forget])
        if retain:
            values["retain mean"] = numpy.mean([values[attribute] for attribute in retain])
            values["retain minus forget"] = values["retain mean"] - values["forget mean"]
        return values

    def perplexity(kind, seed):
        known = PERPLEXITY.get(kind, PERPLEXITY["attribute"])
        return known[seeds.index(seed) % len(known)] if kind != "base" else known[0]

    def combine(function, kind):
        results = [function(kind, seed) for seed in seeds]
        if isinstance(results[0], dict):
            return {key: float(numpy.mean([result[key] for result in results])) for key in results[0]}
        return float(numpy.mean(results))

    def evaluate(candidate, kind):
        for seed in ("all",) if kind == "base" else (*seeds, "all"):
            spread = 0.08 if seed == "all" else 0.12

            def measure(function, of, seed=seed):
                return combine(function, of) if seed == "all" or of == "base" else function(of, seed)

            against = {"base": "base", "joint": "joint"} if kind != "base" else {}
            if kind == "joint":
                against = {"base": "base"}
            if kind.startswith("attribute"):
                against = against | {"random": kind.replace("attribute", "random")} | {one: one for one in ordered}
            own = measure(accuracies, kind)
            for metric in ("accuracy", "accuracy_norm"):
                for attribute, value in own.items():
                    add(candidate, seed, "knowledge", attribute, metric, value, spread)
                for name, other in against.items():
                    for attribute, value in measure(accuracies, other).items():
                        difference = own[attribute] - value
                        add(candidate, seed, "knowledge", attribute, f"{metric}_minus_{name}", difference, 0.05)
            value = measure(perplexity, kind)
            add(candidate, seed, "fluency", "", "perplexity", value, 1.5, n=400)
            for name, other in against.items():
                difference = value - measure(perplexity, other)
                add(candidate, seed, "fluency", "", f"perplexity_minus_{name}", difference, 0.3, n=400)

    def noise(seed, step):
        return numpy.random.default_rng([seeds.index(seed), step]).uniform(0.7, 1.3)

    def train(candidate, start, length):
        for seed in seeds:
            for step in range(1, length + 1, 3):
                add(
                    candidate,
                    seed,
                    "training",
                    "",
                    "forget_loss",
                    1 + start * numpy.exp(-step / 15) * noise(seed, step),
                    n=step,
                )
                add(candidate, seed, "training", "", "retain_loss", 0.02 * step**0.5 * noise(seed, step), n=step)
            if (length - 1) % 3:
                add(candidate, seed, "training", "", "forget_loss", 1 + start * numpy.exp(-length / 15), n=length)
                add(candidate, seed, "training", "", "retain_loss", 0.02 * length**0.5, n=length)

    evaluate(base, "base")
    for number, method in enumerate(methods):
        for split in ("joint", *ordered):
            evaluate((f"{method}/{split}", method, split, "", ""), split)
            train((f"{method}/{split}", method, split, "", ""), 17 + number, 60 * len(forget))
        parts = [f"part{part}" for part in range(1, len(forget) + 1)]
        for position, shard in enumerate(forget):
            shard_candidate = (f"{method}/attribute/shard/{shard}", method, "attribute", shard, "")
            evaluate(shard_candidate, f"only {shard}")
            train(shard_candidate, 16 + position, 60)
            train((f"{method}/random/shard/{parts[position]}", method, "random", parts[position], ""), 17, 60)
        for merge in merges:
            for into in shards:
                for split in (f"attribute-{into}", f"random-{into}"):
                    evaluate((f"{method}/{split}/merge/{merge}", method, split, "", merge), split)
            for split, own in (("attribute", forget), ("random", parts)):
                candidate = (f"{method}/{split}/merge/{merge}", method, split, "", merge)
                evaluate(candidate, split)
                for seed in seeds:
                    for position, shard in enumerate(own):
                        add(candidate, seed, "merge", "", "kept_share", 0.5 - 0.01 * position, shard=shard)
                        add(candidate, seed, "merge", "", "norm", 3.0 + position, shard=shard)
                        for other in own[position + 1 :]:
                            cosine = 0.3 if split == "attribute" else 0.6
                            add(candidate, seed, "merge", other, "cosine", cosine, shard=shard)
                    add(candidate, seed, "merge", "", "sign_conflict", 0.34 if split == "attribute" else 0.2)
                    add(candidate, seed, "merge", "", "norm", 3.5)
    table = pandas.DataFrame(rows, columns=[*TEXT_COLUMNS, *NUMBER_COLUMNS])
    return at_budgets(table, forget, budgets) if budgets else table


def at_budgets(table, forget, budgets):
    """Return the table as the means over the budgets, and the numbers at each: more is forgotten at a larger one."""
    measured = (table["method"] != "") & table["evaluation"].isin(["knowledge", "fluency"])
    means = table[measured].assign(budget="all")
    parts = [table[~measured], means]
    for number, budget in enumerate(budgets):
        steps = (len(budgets) - 1) / 2 - number
        shift = steps * (0.05 * means["metric"].isin(["accuracy", "accuracy_norm"]) + 0.01 * is_difference(means))
        shift *= means["attribute"].isin([*forget, "forget mean"])
        shifted = {column: means[column] + shift for column in ("value", "low", "high")}
        parts.append(means.assign(budget=budget, **shifted))
        strengths = means[
            (means["evaluation"] == "fluency") & (means["metric"] == "perplexity") & (means["seed"] != "all")
        ]
        facts = {"scale": 0.5 + number, "kl_held_out": float(budget.partition("=")[2]), "reached": 1.0}
        for metric, value in facts.items():
            nothing = {"low": numpy.nan, "high": numpy.nan, "p": numpy.nan}
            parts.append(strengths.assign(budget=budget, evaluation="budget", metric=metric, value=value, **nothing))
    return pandas.concat(parts, ignore_index=True)


def without_budget(table, path, *budgets):
    """Return the table where a candidate doesn't reach some of the budgets, and so has no means over them all."""
    own = table["candidate"].str.startswith(path) & table["evaluation"].isin(["knowledge", "fluency"])
    table = table[~(own & table["budget"].isin([*budgets, "all"]))]
    missed = table["candidate"].str.startswith(path) & (table["evaluation"] == "budget") & table["budget"].isin(budgets)
    missed_rows = table[missed & (table["metric"] == "reached")].assign(value=0.0)
    return pandas.concat([table[~missed], missed_rows], ignore_index=True)


def is_difference(rows):
    return rows["metric"].str.contains("_minus_") & ~rows["metric"].str.contains("_minus_base")


def p_value(value, spread):
    """Return the two-sided p-value of an estimate whose normal 95 % interval reaches `spread` to each side."""
    return None if spread is None else 2 * NormalDist().cdf(-abs(value) / (spread / 1.959964))
