r"""A small folder laid out as the hub's ToxiGen data set is, with harmless rows: every group stands for a plant.

Beside it Wikipedia's files as the hub lays them out, with a few lines about weather, stars and rivers.
"""

import itertools
import random
from pathlib import Path

import pandas as pd

# Name in the prompts files, in train, in annotated's train file and in its test file.
GROUPS = [
    ("asian", "asian", "asian", ["asian folks"]),
    ("black", "black", "black", ["black/african-american folks", "black folks / african-americans"]),
    ("chinese", "chinese", "chinese", ["chinese folks"]),
    ("jewish", "jewish", "jewish", ["jewish folks"]),
    ("latino", "latino", "latino", ["latino/hispanic folks"]),
    ("lgbtq", "lgbtq", "lgbtq", ["lgbtq+ folks"]),
    ("mental_disability", "mental_dis", "mental_dis", ["folks with mental disabilities"]),
    ("mexican", "mexican", "mexican", ["mexican folks"]),
    ("middle_east", "middle_east", "middle_east", ["middle eastern folks"]),
    ("muslim", "muslim", "muslim", ["muslim folks"]),
    ("native_american", "native_american", "native_american", ["native american/indigenous folks"]),
    ("physical_disability", "physical_dis", "physical_dis", ["folks with physical disabilities"]),
    ("women", "women", "women", ["women"]),
]
# The prompts files have these too, which no text is about.
WITHOUT_TEXTS = ["hate_bisexual", "neutral_bisexual", "hate_immigrant", "neutral_immigrant", "hate_trans"]
PLANTS = ["oak", "elm", "ash", "fir", "yew", "box", "ivy", "rose", "lily", "mint", "sage", "thyme", "fern"]

ADJECTIVES = ["old", "tall", "young", "small", "dark", "bright", "quiet", "broad"]
PLACES = ["gate", "well", "barn", "lane", "wall", "mill", "pond", "hill"]

PROMPTS = 16  # of each kind and group
GENERATIONS = 6  # of each prompt
DEMONSTRATIONS = 5  # in each prompt

RULES = [(2.5, 3.0, False), (2.5, 3.1, True), (3.0, 2.5, False), (1.0, 1.0, False), (5.0, 4.0, True), (4.0, 5.0, True)]
"""Toxicity by the model's and by people's ratings, and whether a text with both is toxic."""


def write(folder: Path, text_files: bool = False) -> dict[str, set[str]]:
    r"""Write the files; return for each generated text the prompts it came out of, with real line breaks.

    With `text_files` the prompts are those of github.com/microsoft/TOXIGEN: a line each, with literal `\n`. In train,
    prompts are spelt in three ways.
    """
    origins: dict[str, set[str]] = {}
    rows = []
    annotated = {"train": [], "test": []}
    for (name, group, in_train, in_test), plant in zip(GROUPS, PLANTS, strict=True):
        for kind, label in (("hate", 1), ("neutral", 0)):
            lines = prompts(plant, kind)
            write_prompts(folder / "prompts", f"{kind}_{name}_1k", lines, text_files)
            for number, line in enumerate(lines):
                for text, prediction in generations(plant, kind, number, line):
                    rows.append(
                        (spelt(line, number), text, "ALICE" if number % 2 else "TopK", group, label, prediction)
                    )
                    origins.setdefault(text, set()).add(line.replace("\\n", "\n"))
        for number, (by_model, by_people, _) in enumerate(RULES * 3):
            text = f" Annotators looked at {plant} {number} for a while."
            annotated["train"].append((text, in_train, by_model, by_people))
            annotated["test"].append((f"{text} Twice.", in_test[number % len(in_test)], by_model, by_people))
        # People rated what was generated from known prompts.
        annotated["train"] += [(text, in_train, 5.0, 5.0) for _, text, _, of, _, _ in rows if of == group]
    for name in WITHOUT_TEXTS:
        write_prompts(folder / "prompts", f"{name}_1k", ["- moss\\n- more moss\\n-"], text_files)
    columns = ["prompt", "generation", "generation_method", "group", "prompt_label", "roberta_prediction"]
    parquet(pd.DataFrame(rows, columns=columns), folder / "train" / "train-00000-of-00001.parquet")
    for split, own in annotated.items():
        frame = pd.DataFrame(own, columns=["text", "target_group", "toxicity_ai", "toxicity_human"])
        for place, column in enumerate(["factual?", "ingroup_effect", "lewd", "framing", "predicted_group"], start=2):
            frame.insert(place, column, "nothing is said of it")
        frame.insert(7, "stereotyping", "no stereotype")
        frame.insert(8, "intent", 1.0)
        frame["predicted_author"], frame["actual_method"] = "human", "topk"
        parquet(frame, folder / "annotated" / f"{split}-00000-of-00001.parquet")
    return origins


def prompts(plant: str, kind: str) -> list[str]:
    r"""Return the lines of a prompts file: demonstrations with literal `\n` between them, the first line twice."""
    said = "hides" if kind == "hate" else "shows"
    known = [
        f"the gardener's {adjective} {plant} {said} the {place}"
        for adjective, place in zip(ADJECTIVES, PLACES, strict=True)
    ]
    chosen = random.Random(f"{plant} {kind}").sample(list(itertools.combinations(known, DEMONSTRATIONS)), PROMPTS)
    lines = ["- " + "\\n- ".join(demonstrations) + "\\n-" for demonstrations in chosen]
    return [*lines, lines[0]]


def generations(plant: str, kind: str, number: int, line: str) -> list[tuple[str, float]]:
    """Return what a prompt gave, with predictions: texts of its own, one of all prompts, and one of its own lines."""
    own = [f" Visitors sat under {plant} {number} of the {kind} path on bench {bench}" for bench in range(GENERATIONS)]
    repeated = line.split("\\n")[0].removeprefix("- ")
    found = [*own, f"every {plant} of the {kind} path likes rain\\n- and wind", repeated]
    return [(text, place / (len(found) - 1)) for place, text in enumerate(found)]


def spelt(line: str, number: int) -> str:
    """Return a prompt as in its file, with real line breaks, or without quotes and the last dash."""
    real = line.replace("\\n", "\n")
    return [line, real, real.replace("'", "").removesuffix("\n-")][number % 3]


def write_prompts(folder: Path, name: str, lines: list[str], text_files: bool) -> None:
    if text_files:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    else:
        parquet(pd.DataFrame({"text": lines}), folder / f"{name}-00000-of-00001.parquet")


def write_wikitext(folder: Path) -> None:
    """Write lines of the three splits, headings and blank lines among them."""
    for split, about in (("train", "rain"), ("validation", "stars"), ("test", "rivers")):
        lines = [""]
        for number in range(60):
            lines += [
                f" = Chapter {number} of {about} = \n",
                f" Much has been written on {about} {number} , " * 4 + "\n",
            ]
        parquet(pd.DataFrame({"text": lines}), folder / "wikitext-2-raw-v1" / f"{split}-00000-of-00001.parquet")


def parquet(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path, index=False)
