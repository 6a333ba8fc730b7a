"""Digests of code: what makes Snakemake rerun a job is content, never a time stamp.

Snakemake notices an edited script by its modification time and an imported module not at all. Each rule therefore
carries ``params: code=code_digest(script)``; a change in the digest reruns the rule's jobs, and nothing else does. What
carries a job and computes nothing (:data:`CARRIERS`) is left out: an edited message throws no result away. Of modules
that hold what jobs choose from (:data:`CHOICES`) only those definitions count that a job uses.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "essential_sparsity"
# Part of every rule's code: raised by hand, it reruns all results.
NUMBERS = 1
# Files and folders of the package.
CARRIERS = ("errors.py", "files.py", "progress.py", "run")
# Modules that hold imports and definitions, nothing else; and the registry of each, of which a job has some entries.
CHOICES = {
    "data/tasks.py": "",
    "methods/scores.py": "SCORES",
    "methods/allocation.py": "ALLOCATIONS",
    "methods/refinement.py": "REFINEMENTS",
    "methods/updates.py": "UPDATES",
}


@dataclass(frozen=True, order=True)
class Part:
    """What counts as one: a file, or a definition or an entry of a registry in a module of :data:`CHOICES`.

    Attributes:
        file: The Python file.
        name: A top-level name, ``REGISTRY['entry']``, or "" for the whole file.
    """

    file: Path
    name: str = ""


def code_digest(script: str | Path, root: str | Path, entries: Mapping[str, str] | None = None) -> str:
    """Digest a script and all of the package that it imports, directly or not, but for :data:`CARRIERS`.

    Comments, formatting and docstrings do not count: what is digested is the syntax tree without them.

    Args:
        script: The Python file that a rule runs.
        root: The folder that holds the package, i.e. the one on ``sys.path``.
        entries: The entry that a job uses of each registry, by the registry's name; without it, all entries count.

    Returns:
        Twelve hexadecimal digits.
    """
    start, seen = Part(Path(script)), dict[Part, str]()
    pending = [start]
    while pending:
        part = pending.pop()
        if part in seen:
            continue
        parts = _parts(part.file, Path(root), part.file.stat().st_mtime_ns)
        seen[part], needed = parts[part.name]
        pending.extend(needed)
        if part.name and part.name == _choices(part.file, Path(root)):
            used = {f"{part.name}[{entries[part.name]!r}]"} if entries else parts.keys()
            pending.extend(Part(part.file, name) for name in used & parts.keys() if name.startswith(f"{part.name}["))
    # The script first, then the modules by their place in the package: independent of where the clone lies.
    code = [str(NUMBERS), seen.pop(start), *(f"{p.file.relative_to(root)} {p.name}\n{seen[p]}" for p in sorted(seen))]
    return _digest("\n".join(code))[:12]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _parts(path: Path, root: Path, _modified: int) -> dict[str, tuple[str, frozenset[Part]]]:
    """Return of each part of a file, by its name, the digest and what it needs; cached, as modules recur."""
    tree = _without_docstrings(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
    imported = list(_imported(tree, root))
    found = {"": (_digest(ast.dump(tree)), frozenset(part for _, part in imported))}
    registry = _choices(path, root)
    if registry is None:
        return found
    nodes: dict[str, ast.AST] = {name: node for node in tree.body for name in _defined(node)}
    if registry:
        entries = getattr(nodes[registry], "value", None)
        assert isinstance(entries, ast.Dict), f"{path}: {registry} is to be a dictionary as it stands"
        for key, value in zip(entries.keys, entries.values, strict=True):
            assert isinstance(key, ast.Constant)
            nodes[f"{registry}[{key.value!r}]"] = value
        # What is left of it: its type.
        entries.keys, entries.values = [], []
    bound = dict(imported) | {name: Part(path, name) for name in nodes}
    for name, node in nodes.items():
        inside = dict(_imported(node, root))
        needed = {part for inner in ast.walk(node) for part in _meant(inner, bound | inside)}
        found[name] = (_digest(ast.dump(node)), frozenset(needed))
    return found


def _choices(path: Path, root: Path) -> str | None:
    """Return the registry of a module of :data:`CHOICES`; None for any other."""
    return CHOICES.get("/".join(path.relative_to(root).parts[1:]))


def _defined(node: ast.stmt) -> list[str]:
    """Return the names that a top-level statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _meant(node: ast.AST, bound: Mapping[str, Part]) -> list[Part]:
    """Return the part that a name stands for, or the entry that ``REGISTRY["entry"]`` does."""
    if isinstance(node, ast.Name) and node.id in bound:
        return [bound[node.id]]
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        registries = [part for part in _meant(node.value, bound) if part.name in CHOICES.values()]
        return [Part(part.file, f"{part.name}[{node.slice.value!r}]") for part in registries]
    return []


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:]
    return tree


def _imported(tree: ast.AST, root: Path) -> Iterator[tuple[str, Part]]:
    """Yield what a syntax tree imports of the package, but for :data:`CARRIERS`, each with the name that it binds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [(alias, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # ``from package import module`` names a module, ``from package.module import function`` does not.
            found = [(alias, f"{node.module}.{alias.name}", "") for alias in node.names]
            found += [(alias, node.module, alias.name) for alias in node.names]
        else:
            continue
        for alias, module, name in found:
            path = root.joinpath(*module.split(".")).with_suffix(".py")
            if module.startswith(f"{PACKAGE}.") and path.is_file() and path.relative_to(root).parts[1] not in CARRIERS:
                yield alias.asname or alias.name, Part(path, "" if _choices(path, root) is None else name)
