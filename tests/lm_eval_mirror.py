"""The data sets of lm-eval's tasks as a local copy of each hub repository has them, with harmless made-up rows.

Columns and splits are those that lm-eval's task definitions read, and what else was known of the published ones. The
layout is the hub's usual one, `CONFIG/SPLIT-00000-of-00001.parquet` listed in the README's header, which was read in
ai2_arc's card and is taken for granted of the others. Numbers of rows differ from task to task.
"""

import random
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import yaml

PLANTS = ["oak", "elm", "ash", "fir", "yew", "ivy", "rose", "lily", "mint", "sage", "fern", "moss"]
PLACES = ["by the gate", "at the well", "near the barn", "along the lane", "on the wall", "under the mill"]
CATEGORIES = {  # of EleutherAI/wmdp_bio_robust_mcqa, and their numbers of robust questions here
    "bioweapons_and_bioterrorism": 3,
    "dual_use_virology": 5,
    "enhanced_potential_pandemic_pathogens": 2,
    "expanding_access_to_threat_vectors": 4,
    "reverse_genetics_and_easy_editing": 6,
    "viral_vector_research": 3,
}
SUBJECTS = ("college_biology", "virology", "computer_security", "abstract_algebra")
LETTERS = "ABCD"


def write(folder: Path, subjects: Iterable[str] = SUBJECTS) -> None:
    """Write every data set below, MMLU with these subjects only."""
    folder = Path(folder)
    four = {name: {"test": _four(f"wmdp {name}", count)} for name, count in (("bio", 9), ("chem", 4), ("cyber", 7))}
    _save(folder / "cais/wmdp", {f"wmdp-{name}": splits for name, splits in four.items()})
    by_category = {
        name: {"robust": _four(f"robust {name}", count), "shortcut": _four(f"shortcut {name}", 9)}
        for name, count in CATEGORIES.items()
    }
    _save(folder / "EleutherAI/wmdp_bio_robust_mcqa", by_category)
    _save(folder / "cais/mmlu", {subject: _mmlu(subject, 2 + number % 4) for number, subject in enumerate(subjects)})
    _save(
        folder / "allenai/ai2_arc",
        {
            name: {split: _arc(f"{name} {split}", 6) for split in ("train", "test", "validation")}
            for name in ("ARC-Challenge", "ARC-Easy")
        },
    )
    splits = ("train", "validation")
    _save(folder / "Rowan/hellaswag", {"default": {split: _hellaswag(split, 6) for split in splits}}, "data")
    _save(folder / "allenai/winogrande", {"winogrande_xl": {split: _winogrande(split, 6) for split in splits}})
    _save(folder / "aps/super_glue", {"boolq": {split: _boolq(split, 6) for split in splits}})
    _save(folder / "truthfulqa/truthful_qa", {"multiple_choice": {"validation": _truthful(5)}})
    _save(folder / "openai/gsm8k", {"main": {"train": _sums("train", 8), "test": _sums("test", 3)}})
    _save(folder / "baber/piqa", {"default": {split: _piqa(split, 6) for split in splits}}, "data")
    _save(folder / "allenai/openbookqa", {"main": {split: _openbook(split, 6) for split in (*splits, "test")}})


def texts(folder: Path) -> set[str]:
    """Return all strings of the mirror that are longer than a few words."""
    found: set[str] = set()

    def add(value) -> None:
        if isinstance(value, str):
            found.update({value} if len(value) > 24 and " " in value else ())
        elif isinstance(value, Mapping):
            add(list(value.values()))
        elif isinstance(value, Iterable):
            for one in value:
                add(one)

    for path in Path(folder).rglob("*.parquet"):
        add(pd.read_parquet(path).to_dict("list"))
    return found


def _save(folder: Path, configs: Mapping[str, Mapping[str, list[dict]]], inside: str = "") -> None:
    listed = []
    for config, splits in configs.items():
        place = inside or config
        for split, rows in splits.items():
            path = folder / place / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_parquet(path, index=False)
        files = [{"split": split, "path": f"{place}/{split}-*"} for split in splits]
        listed.append({"config_name": config, "data_files": files})
    header = yaml.safe_dump({"license": "other", "configs": listed}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{header}---\n\n# A copy\n")


def _drawn(name: str, count: int) -> list[tuple[int, random.Random, str]]:
    """Return number, random generator and a sentence's beginning for each row of a table."""
    generator = random.Random(name)
    return [
        (number, generator, f"In the {name} garden, bed {number}, the {generator.choice(PLANTS)} grows")
        for number in range(count)
    ]


def _four(name: str, count: int) -> list[dict]:
    return [
        {"answer": generator.randrange(4), "question": f"{start} where?", "choices": generator.sample(PLACES, 4)}
        for _, generator, start in _drawn(name, count)
    ]


def _mmlu(subject: str, count: int) -> dict[str, list[dict]]:
    splits = {"test": count, "validation": 2, "dev": 5}
    return {
        split: [
            {"question": row["question"], "subject": subject, "choices": row["choices"], "answer": row["answer"]}
            for row in _four(f"{subject} {split}", size)
        ]
        for split, size in splits.items()
    }


def _arc(name: str, count: int) -> list[dict]:
    rows = []
    for number, generator, start in _drawn(name, count):
        labels = list(LETTERS if number % 2 else "1234")
        choices = {"text": generator.sample(PLACES, 4), "label": labels}
        key = labels[generator.randrange(4)]
        rows.append({"id": f"{name} {number}", "question": f"{start} where?", "choices": choices, "answerKey": key})
    return rows


def _hellaswag(name: str, count: int) -> list[dict]:
    rows = []
    for number, generator, start in _drawn(name, count):
        told = {
            "ind": number,
            "activity_label": "Gardening",
            "ctx_a": f"{start} well.",
            "ctx_b": "then [step] somebody",
        }
        told |= {"ctx": f"{start} well. then somebody", "endings": [f"waters it {one}." for one in PLACES[:4]]}
        told |= {"source_id": f"garden~{number}", "split": name, "split_type": "indomain"}
        rows.append(told | {"label": str(generator.randrange(4))})
    return rows


def _winogrande(name: str, count: int) -> list[dict]:
    return [
        {
            "sentence": f"{start} beside another plant because the _ was planted there.",
            "option1": f"first {PLANTS[number]}",
            "option2": f"second {PLANTS[-number - 1]}",
            "answer": generator.choice("12"),
        }
        for number, generator, start in _drawn(name, count)
    ]


def _boolq(name: str, count: int) -> list[dict]:
    return [
        {
            "question": f"does it grow {PLACES[number % 6]}",
            "passage": f"{start} {generator.choice(PLACES)}.",
            "idx": number,
            "label": generator.randrange(2),
        }
        for number, generator, start in _drawn(name, count)
    ]


def _truthful(count: int) -> list[dict]:
    rows = []
    for number, _, start in _drawn("truthful", count):
        choices = [f"It grows {place}." for place in PLACES[: 3 + number % 3]]
        one = {"choices": choices, "labels": [1] + [0] * (len(choices) - 1)}
        several = {"choices": choices, "labels": [1, 1] + [0] * (len(choices) - 2)}
        rows.append({"question": f"{start} where?", "mc1_targets": one, "mc2_targets": several})
    return rows


def _sums(name: str, count: int) -> list[dict]:
    return [
        {
            "question": f"{start} with {number + 2} leaves. Two fall. How many are left?",
            "answer": f"{number + 2} - 2 = <<{number + 2}-2={number}>>{number} leaves are left.\n#### {number}",
        }
        for number, _, start in _drawn(f"sums {name}", count)
    ]


def _piqa(name: str, count: int) -> list[dict]:
    return [
        {
            "goal": f"{start} better if one does what?",
            "sol1": f"Water it {PLACES[number % 6]}.",
            "sol2": f"Paint it {PLACES[-number % 6]}.",
            "label": generator.randrange(2),
        }
        for number, generator, start in _drawn(f"goals {name}", count)
    ]


def _openbook(name: str, count: int) -> list[dict]:
    rows = []
    for number, generator, start in _drawn(f"book {name}", count):
        choices = {"text": generator.sample(PLACES, 4), "label": list(LETTERS)}
        told = {"id": str(number), "question_stem": start, "choices": choices}
        rows.append(told | {"answerKey": generator.choice(LETTERS)})
    return rows
