"""Check a configuration against its schema, and say what is wrong with it in one sentence."""

import copy
import difflib
from collections.abc import Mapping

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend

from spunge.errors import InputError

# JSON counts 60.0 among the integers; Python does not.
_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def check(config: dict, schema: Mapping) -> None:
    """Check `config` and fill in the schema's defaults, in place.

    Raises InputError with one sentence that names the key, what was found and what would do.
    """
    fill_defaults(config, schema)
    error = best_match(_Validator(schema).iter_errors(config))
    if error is not None:
        raise InputError(_sentence(error))
    _check_methods(config, schema)
    _check_wheels(config)


def fill_defaults(config: object, schema: Mapping) -> None:
    """Add the defaults of `schema` for keys that `config` leaves out, at every depth, in place."""
    if not isinstance(config, dict):
        return
    for key, described in schema.get("properties", {}).items():
        if "default" in described and key not in config:
            config[key] = copy.deepcopy(described["default"])
        if key in config:
            fill_defaults(config[key], described)
    if isinstance(others := schema.get("additionalProperties"), dict):
        for key in config.keys() - schema.get("properties", {}).keys():
            fill_defaults(config[key], others)


def _check_methods(config: Mapping, schema: Mapping) -> None:
    known = schema["properties"]["methods"]["additionalProperties"]["properties"]["method"]["enum"]
    for name, section in config["methods"].items():
        if section.get("method", name) not in known:
            raise InputError(
                f"configuration: methods.{name} is no known method; give it a key `method`: {', '.join(known)}"
            )


def _check_wheels(config: Mapping) -> None:
    used = {"data.wheels": config["data"]["wheels"]}
    source = config["model"]["source"]
    if source.startswith("wheel:"):
        used["model.source"] = [source.removeprefix("wheel:")]
        if not config["model"]["file"]:
            raise InputError(
                f"configuration: model.source is {source}, so model.file must name the GGUF file in that wheel"
            )
    for key, requirements in used.items():
        for requirement in requirements:
            if requirement not in config["wheels"]:
                raise InputError(f"configuration: {key} names {requirement}, but `wheels` has no SHA-256 for it")


def _sentence(error: ValidationError) -> str:
    where = ".".join(str(part) for part in error.absolute_path)
    at = f"configuration: {where}" if where else "configuration"
    if error.validator == "additionalProperties" and isinstance(error.schema.get("properties"), dict):
        known = sorted(error.schema["properties"])
        unknown = next(key for key in error.instance if key not in known)
        near = difflib.get_close_matches(str(unknown), known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
        return f"{at} has an unknown key `{unknown}`; {hint}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"{at} lacks the key `{missing}`"
    if error.validator == "enum":
        return f"{at} is {error.instance!r}; it can be {', '.join(map(repr, error.validator_value))}"
    if error.validator == "type":
        wanted = error.validator_value
        said = f"{at} is {error.instance!r}; it must be {wanted if isinstance(wanted, str) else ' or '.join(wanted)}"
        # YAML 1.1 takes 5e-3 for a string, since it has no point.
        return f"{said} (write 5.0e-3 for 5e-3)" if "number" in wanted and _is_number(error.instance) else said
    if error.validator == "oneOf" and "description" in error.schema:
        return f"{at} is {error.instance!r}; it must be: {error.schema['description']}"
    return f"{at}: {error.message}"


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True
