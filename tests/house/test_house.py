"""The rooms of the library: their size, their doors, and the tests that mirror them. Who may import whom is lint's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "workflow" / "scripts" / "essential_sparsity"
ROOMS = sorted(plate.parent for plate in LIBRARY.rglob("__init__.py"))


def modules(room: Path) -> set[str]:
    return {file.stem for file in room.glob("*.py")} - {"__init__"}


def named(room: Path, part: str) -> set[str]:
    plate = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    found = re.search(rf"^{part}: (.+?)\.(?:$| Two)", re.sub(r"\([^)]*\)", "", plate), re.MULTILINE | re.DOTALL)
    return set(re.findall(r"[a-z_]+", found[1])) if found else set()


def imported() -> Iterator[tuple[Path, str]]:
    for file in (ROOT / "workflow").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("essential_sparsity"):
                yield from ((file, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(LIBRARY.parent)))
def test_a_room_is_small_and_its_plate_is_all_that_stands_at_its_door(room: Path) -> None:
    assert 3 <= len(modules(room)) <= 15
    assert all(len((room / f"{name}.py").read_text().splitlines()) <= 500 for name in modules(room))
    assert len(ast.parse((room / "__init__.py").read_text()).body) == 1, "a docstring, and no import"


@pytest.mark.parametrize("room", ROOMS[1:], ids=lambda room: str(room.relative_to(LIBRARY)))
def test_a_plate_names_every_module_and_other_rooms_use_doors_only(room: Path) -> None:
    doors, inside = (named(room, part) & modules(room) for part in ("Doors", "Inside"))
    assert doors | inside == modules(room)
    place = ".".join(room.relative_to(LIBRARY.parent).parts)
    secrets = tuple(f"{place}.{name}." for name in inside)
    assert not [use for use in imported() if (use[1] + ".").startswith(secrets) and use[0].parent != room]


def test_every_test_of_a_module_stands_where_the_module_does() -> None:
    tests = ROOT / "tests" / "unit"
    for test in [test for test in tests.rglob("test_*.py") if test.parent != tests]:
        assert (LIBRARY / test.parent.relative_to(tests)).is_dir(), test


@pytest.mark.parametrize("file", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_the_floor_plan_says_what_the_plates_say(file: str) -> None:
    plan = (ROOT / file).read_text()
    plates = [ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or "" for room in ROOMS[1:]]
    rooms = [plate.split("\n")[0] for room, plate in zip(ROOMS[1:], plates, strict=True) if room.parent == LIBRARY]
    assert rooms and all(f"| {line.partition(': ')[2]} |" in plan for line in rooms)
