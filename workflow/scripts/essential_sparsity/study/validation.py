"""Validation of configuration against JSON schemas, with messages that say what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError, validators
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from essential_sparsity.errors import UserError, did_you_mean, quoted

SCHEMAS = Path(__file__).resolve().parents[3] / "schemas"

# libyaml's loader, where PyYAML was built with it, reads ten times as fast, and as safely.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(path: Path) -> Any:
    """Read a YAML file safely.

    Raises:
        UserError: The file is missing or not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506
    except FileNotFoundError as error:
        raise UserError(str(path), "no such file", "a YAML file", "create it or correct its name") from error
    except yaml.YAMLError as error:
        message = " ".join(str(error).split())
        raise UserError(str(path), f"text that is not YAML ({message})", "YAML", "correct that line") from error


def _with_defaults(validator_class: Any) -> Any:
    """Extend a validator so that it fills in the schema's defaults (recipe of jsonschema's documentation)."""
    check = validator_class.VALIDATORS["properties"]

    def fill(validator: Any, properties: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, dict):
            for key, sub in properties.items():
                if isinstance(sub, dict) and "default" in sub:
                    default = sub["default"]
                    instance.setdefault(key, default.copy() if isinstance(default, dict | list) else default)
        yield from check(validator, properties, instance, schema)

    return validators.extend(validator_class, {"properties": fill})


_Validator = _with_defaults(Draft202012Validator)


@cache
def _resource(path: Path, _modified: int) -> Resource[Any]:
    """Return a schema that others refer to; cached, as it is asked for at every reference."""
    # A `$schema` of its own would make jsonschema go on with a plain validator, which fills in no defaults.
    return DRAFT202012.create_resource({key: part for key, part in load_yaml(path).items() if key != "$schema"})


def _retrieve(folder: Path) -> Any:
    return lambda uri: _resource(folder / uri, (folder / uri).stat().st_mtime_ns)


def validate(instance: Any, schema: Path, file: str) -> None:
    """Check ``instance`` against a schema and fill in defaults, in place.

    Args:
        instance: What was read from ``file``.
        schema: A JSON schema in YAML; references are to files beside it.
        file: Name of the file, for messages.

    Raises:
        UserError: The first fault, nearest to the top of the file.
    """
    registry: Registry[Any] = Registry(retrieve=_retrieve(schema.parent))  # type: ignore[call-arg]
    contents = load_yaml(schema)
    # Of the faults of one mapping an unknown key comes first: a misspelt key is also a missing one.
    errors = sorted(
        _Validator(contents, registry=registry).iter_errors(instance),
        key=lambda e: (list(map(str, e.path)), e.validator != "additionalProperties"),
    )
    if errors:
        raise _explain(errors[0], file)


def key_path(parts: Any) -> str:
    """Write a path of keys as in ``curves[0].models``."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _explain(error: ValidationError, file: str) -> UserError:
    key = key_path(error.absolute_path)
    where = f"{file}, key {key}" if key else file
    schema: dict[str, Any] = error.schema if isinstance(error.schema, dict) else {}
    value, rule = error.instance, error.validator
    about = f" ({schema['description'].rstrip('.')})" if "description" in schema else ""
    shown = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
    if rule == "additionalProperties":
        allowed = sorted(schema.get("properties", {}))
        patterns = schema.get("patternProperties", {})
        unknown = next(k for k in value if k not in allowed and not any(re.search(p, k) for p in patterns))
        return UserError(
            f"{file}, key {key_path([*error.absolute_path, unknown])}", f"the unknown key '{unknown}'",
            f"one of {quoted(allowed)}", did_you_mean(unknown, allowed),
        )  # fmt: skip
    if rule == "required":
        missing = next(k for k in error.validator_value if k not in value)
        misspelt = difflib.get_close_matches(missing, [str(k) for k in value if k not in error.validator_value], n=1)
        mend = f"write '{missing}' instead of '{misspelt[0]}'" if misspelt else f"add '{missing}:'"
        return UserError(where, f"no key '{missing}'", f"the keys {quoted(error.validator_value)}", mend)
    if rule == "dependentRequired":
        key_, missing = next(
            (k, m) for k, ms in error.validator_value.items() if k in value for m in ms if m not in value
        )
        return UserError(where, f"'{key_}' without '{missing}'", f"both or neither{about}", f"add '{missing}:'")
    if rule == "enum":
        allowed = error.validator_value
        return UserError(where, shown, f"one of {quoted(allowed)}", did_you_mean(value, allowed))
    if rule == "type" and isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return UserError(
            where, f"the text '{value}'", f"a number{about}", f"write {float(value):g} (YAML reads '{value}' as text)"
        )
    if rule == "type" and error.validator_value == "string" and not isinstance(value, dict | list | None):
        return UserError(where, f"{value}, which YAML does not read as text", f"text{about}", "put it in quotes")
    if rule in {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}:
        return UserError(where, shown, f"a number {_bounds(schema)}{about}", "write a number within these bounds")
    if rule == "pattern":
        return UserError(where, shown, f"text that matches {error.validator_value}{about}", "rewrite it in this form")
    kinds = [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
    expected = {
        "type": " or ".join(map(str, kinds)) if rule == "type" else "",
        "minItems": f"at least {error.validator_value} items",
    }
    return UserError(where, shown, f"{expected.get(str(rule), error.message)}{about}", "correct this value")


def _bounds(schema: dict[str, Any]) -> str:
    words = {
        "minimum": "of at least",
        "exclusiveMinimum": "above",
        "maximum": "of at most",
        "exclusiveMaximum": "below",
    }
    return " and ".join(f"{word} {schema[rule]}" for rule, word in words.items() if rule in schema)
