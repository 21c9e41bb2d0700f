"""An export in a repository of the Hugging Face hub, its card with what evaluations.csv says of it."""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jinja2
import pandas
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, EvalResult, HfApi, ModelCard
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import filter_repo_objects

from spunge.core.errors import InputError
from spunge.experiment.records import BASE
from spunge.export.contents import CARD, CONFIG, EXPORTED, LOADED, MERGEKIT, WEIGHT_FILES
from spunge.report.results_table import MINUS, RESERVED, TOXIC_SHARE

TEMPLATE = Path(__file__).with_name("results.md")
FOLLOWING = "## What unlearning does not promise"  # the section of an export's card that the results come before
TAG = "spunge"  # of the cards of all exports
# Besides toxic shares: the metrics that a card has of single attributes.
MAIN = ("accuracy", "rouge_l_recall", "perplexity")
SHOWN = 20  # attributes of an evaluation at most; of more, their means alone
SMALL, LARGE = 0.01, 1e6  # numbers that three decimals tell too little of, or too much
KEYS = ["evaluation", "attribute", "metric"]


def token(environment: Mapping[str, str] = os.environ) -> str:
    """Return the hub's token from HF_TOKEN, and from nowhere else; raise InputError where none is there."""
    found = environment.get("HF_TOKEN", "").strip()
    if not found:
        raise InputError(
            "HF_TOKEN is not set: put a token that may write to the repository into the environment; one that a login "
            "keeps in a file is not taken"
        )
    if not re.fullmatch("[!-~]+", found):  # the client's error would show it
        raise InputError("HF_TOKEN has characters that no token has: copy it again")
    return found


def publish(
    folder: Path,
    evaluations: pandas.DataFrame,
    candidate: str,
    budget: str,
    repository: str,
    private: bool,
    token: str,
) -> dict[str, object]:
    """Upload an export, its card with what was measured, in one commit; return what is there now.

    `budget` is that of the export's λ as evaluations.csv has it, "" the configured λ. Of the folder, what an export
    consists of is uploaded and nothing else, but no mergekit.yaml that has the base model's folder. A new repository is
    private if `private`. What is returned has the repository, the commit (`revision`) and the SHA-256 of every file.
    Raises InputError where nothing was measured, for a public repository if `private`, for one that holds something
    else, and where the hub can't be reached or refuses.
    """
    rows = measured(evaluations, candidate, budget)
    config = json.loads((folder / CONFIG).read_text())
    dtype = config.get("dtype") or config.get("torch_dtype")
    told = card((folder / CARD).read_text(), rows, repository.partition("/")[2], dtype)
    # Of a base model that isn't of the hub, mergekit.yaml has the folder, and its name spells where the model lies.
    left_out = [] if ModelCard(told).data.base_model else [MERGEKIT]
    found = (path.name for path in folder.iterdir())
    names = sorted(filter_repo_objects(found, allow_patterns=EXPORTED, ignore_patterns=left_out))
    files = [CommitOperationAdd(name, told.encode() if name == CARD else folder / name) for name in names]
    with _refusals(repository):
        hub = HfApi(token=token)
        hub.create_repo(repository, private=private, exist_ok=True)
        there = hub.model_info(repository)
        if private and not there.private:
            raise InputError(
                f"{repository} is public, and publish.private is true: make it private on the hub, name another "
                "repository, or set publish.private to false"
            )
        held = {file.rfilename for file in there.siblings or ()} - {".gitattributes"}  # which every repository has
        if held and TAG not in (there.tags or ()):
            raise InputError(
                f"{repository} holds what was not published from here ({sorted(held)[0]}): name a new repository"
            )
        # Of an earlier export: what transformers would load beside this one, and how another merge is made.
        stale = [*filter_repo_objects(sorted(held - {*names}), allow_patterns=[*WEIGHT_FILES, *LOADED, MERGEKIT])]
        # One commit, so that nobody sees half of a model; upload_folder may make several.
        operations = [*files, *map(CommitOperationDelete, stale)]
        commit = hub.create_commit(repository, operations, commit_message=f"Publish {candidate}")
    return {
        "candidate": candidate,
        "budget": budget,
        "repository": repository,
        "private": there.private,
        "url": commit.commit_url,
        "revision": commit.oid,
        "files": {file.path_in_repo: file.upload_info.sha256.hex() for file in files},
    }


@contextmanager
def _refusals(repository: str) -> Iterator[None]:
    """Say in one sentence why the hub took nothing; its client, its transport and its storage raise what they like."""
    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"nothing was published in {repository}: {', '.join(lines[:2]) or type(error).__name__}; see that HF_TOKEN "
            "may write there and that the hub can be reached, and run again"
        ) from error


def measured(evaluations: pandas.DataFrame, candidate: str, budget: str) -> pandas.DataFrame:
    """Return what was measured of a candidate of one seed at a budget, in the order of evaluations.csv.

    A row for each evaluation, attribute and metric that has a difference from the base model: `value`, `low`, `high`,
    `n`, `base` (the base model's value), `change`, `change_low` and `change_high`. Raises InputError where there is
    none.
    """
    own = evaluations[(evaluations["candidate"] == candidate) & (evaluations["budget"] == budget)]
    own = own[own["metric"] != "samples"]  # is the same for all
    changes = own[own["metric"].str.endswith(f"{MINUS}base")]
    changes = changes.assign(metric=changes["metric"].str.removesuffix(f"{MINUS}base"))
    changes = changes[[*KEYS, "value", "low", "high"]].set_axis([*KEYS, "change", "change_low", "change_high"], axis=1)
    base = evaluations[evaluations["candidate"] == BASE.path].drop_duplicates(KEYS)
    rows = own.merge(changes, on=KEYS).merge(base[[*KEYS, "value"]].rename(columns={"value": "base"}), "left", KEYS)
    if rows.empty:
        at = budget or "the configured λ"
        raise InputError(f"evaluations.csv tells nothing of {candidate} at {at}: name a candidate that was evaluated")
    return rows


def card(text: str, rows: pandas.DataFrame, name: str, dtype: str) -> str:
    """Return an export's card with the rows of `measured`, as a table for people and as `model-index` for the hub.

    `name` is the model's; `dtype` that of its weights.
    """
    shown = _shown(rows)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"code": _code, "number": _number, "estimate": _estimate}
    results = environment.from_string(TEMPLATE.read_text()).render(
        rows=[row._asdict() for row in shown.itertuples()],
        experiment=rows["experiment"].iloc[0],
        seed=rows["seed"].iloc[0],
        budget=rows["budget"].iloc[0],
        dtype=dtype,
        left_out=len(shown) < len(rows),
    )
    made = ModelCard(text)
    if entries := eval_results(shown):
        made.data.model_name, made.data.eval_results = name, entries
    before, following, after = made.text.partition(FOLLOWING)
    made.text = f"{before}{results}{following}{after}"
    return str(made)


def _shown(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Return the rows that a card has room for: of single attributes the main metrics, and none where they are many."""
    single = ~rows["attribute"].isin([*RESERVED, ""])
    number = rows["attribute"].where(single).groupby(rows["evaluation"]).transform("nunique")
    main = rows["metric"].isin(MAIN) | rows["metric"].str.startswith(TOXIC_SHARE)
    return rows[~single | (main & (number <= SHOWN))]


def eval_results(rows: pandas.DataFrame) -> list[EvalResult]:
    """Return the entries of a card's `model-index`: each evaluation of an attribute is a data set there.

    It has no field for an interval, which stands in the metric's `args`, and in its name for people. What is no finite
    number is left out.
    """
    entries = []
    for row in rows[rows["value"].map(math.isfinite)].itertuples():
        told = math.isfinite(row.low) and math.isfinite(row.high)
        interval = {"confidence_level": 0.95, "low": float(row.low), "high": float(row.high)} if told else {}
        entries.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=row.evaluation,
                dataset_name=": ".join(filter(None, [f"{row.experiment}, {row.evaluation}", row.attribute])),
                dataset_config=row.attribute or None,
                metric_type=row.metric,
                metric_value=float(row.value),
                metric_name=f"{row.metric} {_interval(row.low, row.high)}".rstrip(),
                metric_args={"n": int(row.n), **interval},
            )
        )
    return entries


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def _estimate(row: Mapping, name: str = "value", low: str = "low", high: str = "high", signed: bool = False) -> str:
    return f"{_number(row[name], signed)} {_interval(row[low], row[high], signed)}".rstrip()


def _interval(low: float, high: float, signed: bool = False) -> str:
    return "" if math.isnan(low) or math.isnan(high) else f"[{_number(low, signed)}, {_number(high, signed)}]"


def _number(value: float, signed: bool = False) -> str:
    """Write a number of any size with a true minus sign; a dash where there is none."""
    if math.isnan(value):
        return "–"
    form = ".1e" if abs(value) >= LARGE else ".2g" if 0 < abs(value) < SMALL else ".3f"
    return f"{value + 0:{'+' if signed else ''}{form}}".replace("-", "−")  # + 0 makes −0 a 0
