"""Digests of code: what makes Snakemake rerun a job is content, never a time stamp.

Snakemake notices an edited script by its modification time and an imported module not at all. Each rule therefore
carries ``params: code=code_digest(script)``; a change in the digest reruns the rule's jobs, and nothing else does. What
carries a job and computes nothing (:data:`CARRIERS`) is left out: an edited message throws no result away.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = "essential_sparsity"
# Part of every rule's code: raised by hand, it reruns all results.
NUMBERS = 1
# Files and folders of the package.
CARRIERS = ("errors.py", "files.py", "progress.py", "run")


def code_digest(script: str | Path, root: str | Path) -> str:
    """Digest a script and every module of the package that it imports, directly or not, but for :data:`CARRIERS`.

    Comments, formatting and docstrings do not count: what is digested is the syntax tree without them.

    Args:
        script: The Python file that a rule runs.
        root: The folder that holds the package, i.e. the one on ``sys.path``.

    Returns:
        Twelve hexadecimal digits.
    """
    seen: dict[Path, str] = {}
    pending = [Path(script)]
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        digest, imports = _parse(path, Path(root), path.stat().st_mtime_ns)
        seen[path] = digest
        pending.extend(imports)
    # The script first, then the modules by their place in the package: independent of where the clone lies.
    parts = [str(NUMBERS), seen.pop(Path(script)), *(f"{p.relative_to(root)}\n{seen[p]}" for p in sorted(seen))]
    return _digest("\n".join(parts))[:12]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _parse(path: Path, root: Path, _modified: int) -> tuple[str, tuple[Path, ...]]:
    """Return the digest of a file's syntax tree and the package's files that it imports; cached, as modules recur."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    imports = tuple(sorted(_imported_files(tree, root)))
    return _digest(ast.dump(_without_docstrings(tree))), imports


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:]
    return tree


def _imported_files(tree: ast.Module, root: Path) -> set[Path]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            # ``from package import module`` names a module, ``from package.module import function`` does not.
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    files = {root.joinpath(*name.split(".")).with_suffix(".py") for name in names if name.split(".")[0] == PACKAGE}
    return {file for file in files if file.is_file() and file.relative_to(root).parts[1] not in CARRIERS}
