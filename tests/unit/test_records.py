"""Records are made of plain values and turned into the same again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from essential_sparsity.records import plain, record


@dataclass(frozen=True)
class Wheel:
    kind: Literal["wheel"]
    version: str


@dataclass(frozen=True)
class Folder:
    kind: Literal["folder", "file"]
    path: str
    patterns: Mapping[str, Sequence[str]] | None = None


@dataclass(frozen=True)
class Entry:
    source: Wheel | Folder
    options: Mapping[str, Any]
    twin: Wheel | None = None
    size: int | None = None


VALUES = [
    {"source": {"kind": "wheel", "version": "1"}, "options": {"kind": "wheel"}, "size": 0},
    {"source": {"kind": "file", "path": "a", "patterns": {"train": ["b"]}}, "options": {}},
    {"source": {"kind": "folder", "path": "a"}, "options": {}, "twin": {"kind": "wheel", "version": "2"}},
]


@pytest.mark.parametrize("values", VALUES)
def test_a_record_is_its_values_and_says_which_kind_it_is(values: dict[str, Any]) -> None:
    found = record(Entry, values)
    assert plain(found) == values
    assert isinstance(found.source, Wheel if values["source"]["kind"] == "wheel" else Folder)
    assert isinstance(found.options, dict)


def test_of_several_kinds_the_one_is_made_that_the_values_name() -> None:
    assert record(Wheel | Folder, VALUES[2]["twin"]) == Wheel("wheel", "2")


def test_what_is_none_is_left_out_so_that_a_new_key_changes_no_parameter() -> None:
    assert plain(record(Entry, VALUES[0] | {"twin": None})) == VALUES[0]


@pytest.mark.parametrize(
    "change", [{"sise": 1}, {"source": {"kind": "wheel"}}, {"source": {"kind": "wheel", "path": "a"}}]
)
def test_a_misspelt_or_missing_key_is_an_error(change: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="argument"):
        record(Entry, VALUES[0] | change)
