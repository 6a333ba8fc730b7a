"""Records: the frozen dataclasses behind the schemas, made of plain values (JSON, YAML) and turned into them.

Schemas are the gate: they check what a user wrote and fill in the defaults, so that a record has none but None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints, overload

Kind = TypeVar("Kind")


@overload
def record(hint: type[Kind], values: Any) -> Kind: ...
@overload
def record(hint: Any, values: Any) -> Any: ...
def record(hint: Any, values: Any) -> Any:
    """Return a record of plain values, those within it too.

    Args:
        hint: A dataclass, or a type that names some: of several, that one is made whose literals the values have.
        values: What a schema has let through.

    Raises:
        TypeError: A key that the dataclass lacks, or one that it requires.
    """
    if not isinstance(values, Mapping):
        return values
    kind = next((kind for kind in (hint, *get_args(hint)) if is_dataclass(kind) and _fits(kind, values)), None)
    if kind is None:
        return values
    hints = get_type_hints(kind)
    made: Any = kind
    return made(**{key: record(hints.get(key), value) for key, value in values.items()})


def _fits(kind: Any, values: Mapping[str, Any]) -> bool:
    literals = {key: get_args(hint) for key, hint in get_type_hints(kind).items() if get_origin(hint) is Literal}
    return all(values.get(key) in allowed for key, allowed in literals.items())


def plain(found: Any) -> dict[str, Any]:
    """Return a record as plain values, without what is None: a key that is added to a schema changes no parameter."""
    return asdict(found, dict_factory=lambda pairs: {key: value for key, value in pairs if value is not None})
