"""ToxiGen (Hartvigsen et al. 2022, arXiv 2203.09509): statements about demographic groups. The data are hate speech.

Forget: what GPT-3 wrote after hateful prompts about a group, or what people judged toxic; attribute = the group.
Prompts: hateful and neutral ones about a group, drawn out of the authors' 1,000 lines of each; nothing that was
generated from one of them is forgotten. Retain and fluency: Wikipedia, or the user's own texts. docs/toxigen.md has the
details.

The files are those of the hub data set (it needs a token), or of a local copy of it. Messages never show a text.
"""

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from spunge.core.errors import InputError
from spunge.core.slugs import folded
from spunge.datasets import hub
from spunge.datasets.table import Prose, Questions, decode, read_source
from spunge.datasets.tables import Tables, check_present, listed, occurrences, shortened
from spunge.experiment.options import Count, Natural, Seed, Text, checked

HUB = "toxigen/toxigen-data"
REVISION = "ea082a8973a287097b17973343576e0c8da8eb3b"
TRAIN = "train/train-00000-of-00001.parquet"
ANNOTATED = ("annotated/train-00000-of-00001.parquet", "annotated/test-00000-of-00001.parquet")

KINDS = {"toxic": "hate", "neutral": "neutral"}
TOXIC = 5.5

WIKITEXT = {"path": f"hub:{hub.WIKITEXT}", "config": hub.WIKITEXT_CONFIG, "revision": hub.WIKITEXT_REVISION}
RETAIN = {**WIKITEXT, "split": "train"}
FLUENCY = {**WIKITEXT, "split": "validation"}


@dataclass(frozen=True)
class Group:
    """What one group is called in the names of the prompts files, in `train` and in the two files of `annotated`."""

    prompts: str
    train: str
    annotated: tuple[str, ...]


GROUPS = {
    "asian": Group("asian", "asian", ("asian", "asian folks")),
    "black": Group("black", "black", ("black", "black/african-american folks", "black folks / african-americans")),
    "chinese": Group("chinese", "chinese", ("chinese", "chinese folks")),
    "jewish": Group("jewish", "jewish", ("jewish", "jewish folks")),
    "latino": Group("latino", "latino", ("latino", "latino/hispanic folks")),
    "lgbtq": Group("lgbtq", "lgbtq", ("lgbtq", "lgbtq+ folks")),
    "mental_disability": Group("mental_disability", "mental_dis", ("mental_dis", "folks with mental disabilities")),
    "mexican": Group("mexican", "mexican", ("mexican", "mexican folks")),
    "middle_east": Group("middle_east", "middle_east", ("middle_east", "middle eastern folks")),
    "muslim": Group("muslim", "muslim", ("muslim", "muslim folks")),
    "native_american": Group(
        "native_american",
        "native_american",
        ("native_american", "native american folks", "native american/indigenous folks"),
    ),
    "physical_disability": Group(
        "physical_disability", "physical_dis", ("physical_dis", "folks with physical disabilities")
    ),
    "women": Group("women", "women", ("women",)),
}
ORDER = {group: place for place, group in enumerate(GROUPS)}


@checked
class Options:
    """What to build."""

    mirror: hub.Mirror = None
    revision: Annotated[Text, Field(description="Commit of the hub data set.")] = REVISION
    labels: Annotated[
        Literal["prompts", "annotated"],
        Field(
            description="What is forgotten: what was generated from hateful `prompts`, or what people `annotated` as "
            "toxic."
        ),
    ] = "prompts"
    minimum_prediction: Annotated[
        float, Field(ge=0, le=1, description="Least `roberta_prediction` of what `prompts` forgets; 0 takes all.")
    ] = 0.0
    texts_per_group: Annotated[Count, Field(description="Texts of each group that are forgotten.")] = 1000
    prompts_per_group: Annotated[Count, Field(description="Prompts of each group and kind, hateful and neutral.")] = 100
    seed: Annotated[Seed, Field(description="Draws prompts, and texts to forget, to retain and for fluency.")] = 0
    retain: Annotated[
        Prose | None, Field(description="As in the data set `table`; null takes Wikipedia's train split.")
    ] = None
    retain_texts: Annotated[Count, Field(description="Texts to retain.")] = 2000
    fluency: Annotated[
        Prose | None, Field(description="As in the data set `table`; null takes Wikipedia's validation split.")
    ] = None
    fluency_texts: Annotated[Count, Field(description="Texts that measure fluency.")] = 200
    minimum_words: Annotated[
        Natural, Field(description="Shorter texts to retain and for fluency, headings for one, are left out.")
    ] = 20
    questions: Annotated[Questions | None, Field(description="As in the data set `table`.")] = None


def build(options: Options, wheel_files: Mapping[str, Path], forget: Sequence[str] | str) -> Tables:
    """Return the tables with what is said of the `forget` groups (a list, or "all") to be forgotten; no wheel is used.

    A group's prompts depend on the seed and the files alone; so do its texts, but for those that stand in, or came out
    of, a held-out prompt of another group, or are of an earlier one of GROUPS, too. No text to forget is retained.
    Raises InputError for an unknown group, a file that can't be had or read, an unknown group's name in it, or options
    that ask for more than there is.
    """
    groups = list(GROUPS) if forget == "all" else list(forget)
    if unknown := [group for group in groups if group not in GROUPS]:
        raise InputError(f"toxigen has no group {listed(unknown)}; it has {', '.join(GROUPS)}")
    lines = {(group, kind): read_prompts(GROUPS[group].prompts, kind, options) for group in groups for kind in KINDS}
    prompts = draw_prompts(lines, dict.fromkeys(KINDS, options.prompts_per_group), options.seed)
    generations = read_generations(groups, options)
    check_origin(generations, lines, options)
    texts = generations[generations["toxic"]] if options.labels == "prompts" else read_annotated(groups, options)
    texts = without_held_out(texts, generations, prompts["prompt"])
    forget = draw_texts(texts, groups, options)
    forgotten = set(forget["text"].map(folded))
    return Tables(
        forget=forget,
        retain=draw_prose(options.retain or RETAIN, "retain", options.retain_texts, options, forgotten),
        questions=None if options.questions is None else read_source(options.questions, "questions"),
        fluency=draw_prose(options.fluency or FLUENCY, "fluency", options.fluency_texts, options),
        prompts=prompts,
    )


def newlines(text: str) -> str:
    r"""Return a text with the line breaks that ToxiGen's files spell as `\n`, stripped."""
    return text.replace("\\n", "\n").strip()


def bare(text: str) -> str:
    """Return a text's words in lower case, for comparisons: no punctuation, no quotes, however lines are broken.

    ToxiGen's authors took quotes out of prompts before they sent them, and files differ in line breaks and a last dash.
    """
    return " ".join(re.findall(r"\w+", re.sub("[\"'’‘“”]", "", newlines(text).lower())))


def read_prompts(group: str, kind: str, options: Options) -> list[str]:
    """Return the different prompts of one kind about a group (its Group.prompts) in the file's order, with line breaks.

    A mirror may have them as Parquet, as the hub does, or as the authors' text files, one prompt a line.
    """
    name = prompts_file(group, kind)
    as_text = None if options.mirror is None else Path(options.mirror).expanduser() / f"{name}.txt"
    if as_text is not None and as_text.is_file():
        lines = decode(as_text.read_bytes(), str(as_text)).split("\n")
    else:
        path = locate(f"{name}-00000-of-00001.parquet", options)
        existing = hub.columns_of(path)
        # The hub's files have had both names.
        column = "prompt" if "prompt" in existing and "text" not in existing else "text"
        lines = read_columns(path, [column])[column].dropna()
    different: dict[str, str] = {}
    for line in lines:
        if key := bare(line):
            different.setdefault(key, newlines(line))
    return list(different.values())


def prompts_file(group: str, kind: str) -> str:
    """Return the name of the file with the prompts of one kind about a group, without what tells its format."""
    return f"prompts/{KINDS[kind]}_{group}_1k"


def draw_prompts(
    lines: Mapping[tuple[str, str], Sequence[str]], per_group: Mapping[str, int], seed: int
) -> pd.DataFrame:
    """Return the table prompts: of each group and kind (the keys) as many as `per_group` has for the kind.

    Prompts of the same sentences are a cluster.
    """
    rows = []
    for (group, kind), prompts_of_group in lines.items():
        if len(prompts_of_group) < per_group[kind]:
            raise InputError(
                f"toxigen has {len(prompts_of_group)} different {kind} prompts for {group}, but {per_group[kind]} are "
                "wanted per group; lower that"
            )
        drawn = random.Random(f"{seed} {kind} {group}").sample(prompts_of_group, per_group[kind])
        rows += [(prompt, group, kind, sentences(prompt)) for prompt in drawn]
    prompts = pd.DataFrame(rows, columns=["prompt", "attribute", "kind", "sentences"])
    return prompts.assign(cluster=pd.factorize(prompts.pop("sentences"))[0].astype(str))


def sentences(prompt: str) -> tuple[str, ...]:
    """Return the sentences that a prompt lists, whatever their order: many prompts are the same few, shuffled."""
    return tuple(sorted(filter(None, map(bare, prompt.splitlines()))))


def read_generations(groups: Sequence[str], options: Options) -> pd.DataFrame:
    """Return what was generated about the groups: text, attribute, prompt (that it came from) and toxic (a bool)."""
    path = locate(TRAIN, options)
    frame = read_groups(
        path,
        "group",
        {GROUPS[group].train: group for group in GROUPS},
        groups,
        ["prompt", "generation", "prompt_label", "roberta_prediction"],
    )
    check_numbers(frame, ["prompt_label", "roberta_prediction"], path)
    toxic = (frame["prompt_label"] == 1) & (frame["roberta_prediction"] >= options.minimum_prediction)
    return frame.assign(text=frame["generation"].map(newlines), toxic=toxic)[["text", "attribute", "prompt", "toxic"]]


def read_annotated(groups: Sequence[str], options: Options) -> pd.DataFrame:
    """Return the texts about the groups whose toxicity in both ratings, from 1 to 5 each, is above 5.5 in sum.

    The rule is the authors' own (`label_annotations` in toxigen/utils.py of github.com/microsoft/TOXIGEN).
    """
    names = {name: group for group, known in GROUPS.items() for name in known.annotated}
    toxic_texts = []
    for file in ANNOTATED:
        path = locate(file, options)
        frame = read_groups(path, "target_group", names, groups, ["text", "toxicity_ai", "toxicity_human"])
        check_numbers(frame, ["toxicity_ai", "toxicity_human"], path)
        toxic = frame["toxicity_ai"] + frame["toxicity_human"] > TOXIC
        toxic_texts.append(frame.loc[toxic, ["attribute"]].assign(text=frame.loc[toxic, "text"].map(newlines)))
    return pd.concat(toxic_texts, ignore_index=True)


def check_origin(generations: pd.DataFrame, lines: Mapping[tuple[str, str], Sequence[str]], options: Options) -> None:
    """Raise InputError where nothing was generated from any known prompt of a group.

    The files are then of different makes, and what came from a held-out prompt couldn't be told.
    """
    origins = {bare(prompt) for prompt in generations["prompt"].unique()}
    for (group, kind), prompts_of_group in lines.items():
        if kind == "toxic" and origins.isdisjoint(map(bare, prompts_of_group)):
            raise InputError(
                f"{options.mirror or HUB}: none of the generations in {TRAIN} comes from a prompt in "
                f"{prompts_file(GROUPS[group].prompts, kind)}, so held-out prompts can't be kept out of what is "
                "forgotten; take both files from one version of the data"
            )


def without_held_out(texts: pd.DataFrame, generations: pd.DataFrame, held_out: pd.Series) -> pd.DataFrame:
    """Return the different texts that neither came out of a held-out prompt nor stand in one.

    Of a text that several groups have, the first one's is returned, in GROUPS' order. A generation came out of a
    held-out prompt if the prompt it came from has all of its words in a row; so did every text of the same words.
    `generations` has text and prompt, `texts` text and attribute.
    """
    held_out = pd.Series([bare(prompt) for prompt in held_out])
    origins = pd.Series(generations["prompt"].unique())
    from_held_out = {row for _, row in occurrences(held_out.tolist(), origins.map(bare))}
    tainted = generations["prompt"].isin(origins.iloc[sorted(from_held_out)])
    excluded = set(generations.loc[tainted, "text"].map(bare)) | {""}
    keys = texts["text"].map(bare)
    candidates = [key for key in keys.unique() if key not in excluded]
    excluded |= {candidates[index] for index, _ in occurrences(candidates, held_out)}
    kept = ~keys.isin(excluded)
    by_group = (
        texts[kept].assign(key=keys).sort_values("attribute", key=lambda groups: groups.map(ORDER), kind="stable")
    )
    return by_group.drop_duplicates("key")[["text", "attribute"]].reset_index(drop=True)


def draw_texts(texts: pd.DataFrame, groups: Sequence[str], options: Options) -> pd.DataFrame:
    """Return the table forget: `texts_per_group` texts of each group, drawn by the seed."""
    rows = []
    for group in groups:
        texts_of_group = texts.loc[texts["attribute"] == group, "text"].tolist()
        if len(texts_of_group) < options.texts_per_group:
            raise InputError(
                f"toxigen has {len(texts_of_group)} texts of {group} to forget that are no other group's and have "
                f"nothing to do with a held-out prompt, texts_per_group is {options.texts_per_group}; lower it or "
                "prompts_per_group"
            )
        drawn = random.Random(f"{options.seed} texts {group}").sample(texts_of_group, options.texts_per_group)
        rows += [(text, group) for text in drawn]
    return pd.DataFrame(rows, columns=["text", "attribute"])


def draw_prose(
    source: Mapping[str, Any], table: str, wanted: int, options: Options, without: Collection[str] = ()
) -> pd.DataFrame:
    """Return the table retain or fluency: `wanted` of the source's different texts, drawn by the seed.

    Texts that are, `folded`, among those `without` are left out.
    """
    texts = dict.fromkeys(read_source(source, table, options.minimum_words)["text"].str.strip())
    texts = [text for text in texts if folded(text) not in without]
    if len(texts) < wanted:
        raise InputError(
            f"{source['path']} (table {table}) has {len(texts)} different texts of at least {options.minimum_words} "
            f"words (minimum_words), {table}_texts is {wanted}; lower it"
        )
    return pd.DataFrame({"text": random.Random(f"{options.seed} {table}").sample(texts, wanted)})


def locate(name: str, options: Options) -> Path:
    """Return the path of one of the data set's files, in the mirror or fetched from the hub; raises InputError."""
    return hub.locate(name, HUB, options.revision, options.mirror, "docs/toxigen.md")


def read_columns(path: Path, columns: Sequence[str], rows: tuple[str, list[str]] | None = None) -> pd.DataFrame:
    """Return some columns, of all rows or of those whose column `rows[0]` has one of the values `rows[1]`."""
    existing = hub.columns_of(path)
    if missing := [column for column in columns if column not in existing]:
        raise InputError(f"{path} has no column {listed(missing)}; it has {listed(existing)}")
    filters = None if rows is None else [(rows[0], "in", rows[1])]
    try:
        return pq.read_table(path, columns=list(columns), filters=filters).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is truncated or not a Parquet file; fetch it again") from error


def read_groups(
    path: Path, column: str, names: Mapping[str, str], groups: Sequence[str], columns: Sequence[str]
) -> pd.DataFrame:
    """Return `columns` and the attribute of the whole rows about the groups, those with nothing missing.

    `names` maps what groups are called in `column` to their own names; any other name there is an InputError.
    """
    group_names = read_columns(path, [column])[column]
    check_present(group_names, column, str(path))
    if unknown := sorted(set(group_names.astype(str)) - names.keys()):
        raise InputError(
            f"{path}, column {column}, has the unknown group {shortened(unknown)}; known are {', '.join(names)}"
        )
    wanted = [name for name, group in names.items() if group in groups]
    frame = read_columns(path, [column, *columns], (column, wanted)).dropna().reset_index(drop=True)
    return frame.assign(attribute=frame[column].map(names))


def check_numbers(frame: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Raise InputError where a column holds something else than numbers."""
    for column in columns:
        if not pd.api.types.is_numeric_dtype(frame[column]):
            raise InputError(f"{path}, column {column}, holds {frame[column].dtype} values; numbers are needed")
