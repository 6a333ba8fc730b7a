"""Records: the frozen dataclasses behind the schemas, made of plain values (JSON, YAML) and turned into them.

Schemas are the gate: they check what a user wrote and fill in the defaults, so that a record has none but None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints, overload

Kind = TypeVar("Kind")


@overload
def record(hint: type[Kind], values: Any) -> Kind: ...
@overload
def record(hint: Any, values: Any) -> Any: ...
def record(hint: Any, values: Any) -> Any:
    """Return a record of plain values, those within it too.

    Args:
        hint: A dataclass, or a type that names some: of several, that one is made whose keys and literals the values
            have.
        values: What a schema has let through.

    Raises:
        TypeError: A key that the dataclass lacks, or one that it requires.
    """
    kinds: list[Any] = [kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
    if kinds and isinstance(values, list):
        return [record(kinds[0], value) for value in values]
    if not kinds or not isinstance(values, Mapping):
        return values
    kind = next((kind for kind in kinds if len(kinds) == 1 or _fits(kind, values)), None)
    if kind is None:
        raise TypeError(f"{sorted(values)} are arguments of none of {', '.join(kind.__name__ for kind in kinds)}")
    hints = get_type_hints(kind)
    return kind(**{key: record(hints.get(key), value) for key, value in values.items()})


def _fits(kind: Any, values: Mapping[str, Any]) -> bool:
    required = {field.name for field in fields(kind) if field.default is MISSING}
    literals = {key: get_args(hint) for key, hint in get_type_hints(kind).items() if get_origin(hint) is Literal}
    known = required <= set(values) <= {field.name for field in fields(kind)}
    return known and all(values[key] in allowed for key, allowed in literals.items())


def plain(found: Any) -> dict[str, Any]:
    """Return a record as plain values, without what is None: a key that is added to a schema changes no parameter."""
    return asdict(found, dict_factory=lambda pairs: {key: value for key, value in pairs if value is not None})
