"""A rule's jobs rerun when its code changes, and not when its comments do."""

from __future__ import annotations

import ast
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from essential_sparsity.files import canonical
from essential_sparsity.methods.method import Method
from essential_sparsity.planning.digests import CARRIERS, CHOICES, PACKAGE, code_digest

SCRIPTS = Path(__file__).resolve().parents[3] / "workflow" / "scripts"
_clock = itertools.count(1)

FILES = {
    "run.py": f'"""Run."""\nimport json\nfrom {PACKAGE}.direct import work\n\nprint(work(json))\n',
    f"{PACKAGE}/__init__.py": "",
    f"{PACKAGE}/direct.py": f"from {PACKAGE} import middle\n\n\ndef work(x):\n    return middle.helper(x)\n",
    f"{PACKAGE}/middle.py": f"import {PACKAGE}.deep\n\n\ndef helper(x):\n    return {PACKAGE}.deep.LIMIT\n",
    f"{PACKAGE}/deep.py": '"""Deep."""\n\nLIMIT = 10  # items\n\n\ndef unused():\n    """Nothing."""\n    return 1\n',
    f"{PACKAGE}/late.py": "VALUE = 1\n",
    f"{PACKAGE}/stranger.py": "VALUE = 1\n",
}


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    # Two writes within the file system's tick must not look like one.
    os.utime(path, ns=(next(_clock) * 10**9,) * 2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        write(tmp_path, name, text)
    return tmp_path


def digest(root: Path) -> str:
    return code_digest(root / "run.py", root)


def test_a_digest_is_short_and_stable(root: Path) -> None:
    assert len(digest(root)) == 12
    assert int(digest(root), 16) >= 0
    assert digest(root) == digest(root)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (f"{PACKAGE}/deep.py", "# items", "# another comment"),
        (f"{PACKAGE}/deep.py", '"""Deep."""', '"""Another docstring,\nof two lines."""'),
        (f"{PACKAGE}/deep.py", '"""Nothing."""', '"""Something."""'),
        (f"{PACKAGE}/deep.py", "LIMIT = 10 ", "LIMIT  =  (\n    10\n)"),
        ("run.py", '"""Run."""', ""),
        (f"{PACKAGE}/direct.py", "\n\n\n", "\n"),
        (f"{PACKAGE}/stranger.py", "VALUE = 1", "VALUE = 2"),
    ],
)
def test_what_does_not_change_the_jobs_does_not_count(root: Path, name: str, old: str, new: str) -> None:
    before = digest(root)
    assert old in FILES[name]
    write(root, name, FILES[name].replace(old, new))
    assert digest(root) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("run.py", "print", "repr"),
        (f"{PACKAGE}/direct.py", "helper(x)", "helper(2 * x)"),
        (f"{PACKAGE}/deep.py", "10", "11"),
        (f"{PACKAGE}/deep.py", "return 1", "return 2"),
        (f"{PACKAGE}/middle.py", "return", "yield"),
    ],
)
def test_a_change_in_any_imported_module_counts(root: Path, name: str, old: str, new: str) -> None:
    before = digest(root)
    write(root, name, FILES[name].replace(old, new))
    assert digest(root) != before
    write(root, name, FILES[name])
    assert digest(root) == before, "undone, nothing is to be rerun"


def test_an_import_inside_a_function_counts(root: Path) -> None:
    text = f"def work(x):\n    from {PACKAGE} import late\n    return late.VALUE\n"
    write(root, f"{PACKAGE}/direct.py", text)
    before = digest(root)
    write(root, f"{PACKAGE}/late.py", "VALUE = 2\n")
    assert digest(root) != before


def test_modules_that_import_each_other_are_no_trap(root: Path) -> None:
    write(root, f"{PACKAGE}/deep.py", f"import {PACKAGE}.direct\nLIMIT = 1\n")
    before = digest(root)
    write(root, f"{PACKAGE}/deep.py", f"import {PACKAGE}.direct\nLIMIT = 2\n")
    assert digest(root) != before


def test_the_place_of_the_clone_does_not_count(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("a place with spaces")
    for name, text in FILES.items():
        write(elsewhere, name, text)
    assert digest(elsewhere) == digest(root)


def test_code_that_moves_from_one_module_to_another_counts(root: Path) -> None:
    before = digest(root)
    write(root, f"{PACKAGE}/deep.py", FILES[f"{PACKAGE}/middle.py"].replace(f"import {PACKAGE}.deep", ""))
    write(root, f"{PACKAGE}/middle.py", FILES[f"{PACKAGE}/deep.py"] + f"import {PACKAGE}.deep\n")
    assert digest(root) != before


def test_every_script_has_a_digest_and_the_package_no_import_that_it_misses() -> None:
    # Relative imports are not followed: there must be none.
    for path in (SCRIPTS / PACKAGE).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path.name}: relative import"
    scripts = sorted(SCRIPTS.glob("*.py"))
    assert len({code_digest(s, SCRIPTS) for s in scripts}) == len(scripts) > 5


def library(place: Path) -> list[str]:
    """Return the modules of the library by their paths."""
    files = (place / PACKAGE).rglob("*.py")
    return sorted(path.relative_to(place).as_posix() for path in files if path.name != "__init__.py")


def test_what_carries_a_job_reruns_nothing_and_every_other_module_what_imports_it(
    tmp_path: Path,
) -> None:
    root = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, root, ignore=shutil.ignore_patterns("__pycache__"))
    scripts = ["evaluate_language_model.py", "prune_weights.py", "collect_evaluations.py", "write_report.py"]
    before = {name: code_digest(root / name, root) for name in scripts}
    reruns: dict[str, set[str]] = {}
    for module in library(root):
        text = (root / module).read_text(encoding="utf-8")
        write(root, module, text + "\nEDITED = 1\n")
        reruns[module] = {name for name in scripts if code_digest(root / name, root) != before[name]}
        write(root, module, text)
    # Shown by `pytest -s`.
    print("".join(f"\n{module}: {', '.join(sorted(found)) or '-'}" for module, found in reruns.items()))
    carried = {module for module in reruns if module.split("/")[1] in CARRIERS}
    by_definition = {f"{PACKAGE}/{module}" for module in CHOICES}
    assert not any(reruns[module] for module in by_definition), "nothing uses what was added"
    assert {"run/job.py", "run/leases.py", "errors.py", "files.py", "progress.py"} <= {
        module.removeprefix(f"{PACKAGE}/") for module in carried
    }
    assert not any(reruns[module] for module in carried)
    # What a job's process has imported by its first line is an oracle that knows nothing of syntax trees.
    for script in scripts:
        imports = f"import sys, {Path(script).stem}; print(*(m for m in sys.modules if m.startswith('{PACKAGE}.')))"
        done = subprocess.run([sys.executable, "-c", imports], cwd=root, capture_output=True, text=True, check=True)
        imported = {f"{name.replace('.', '/')}.py" for name in done.stdout.split()} & set(reruns) - by_definition
        assert len(imported) > 5
        assert all(script in reruns[module] for module in imported - carried)


MAGNITUDE, WANDA = Method("magnitude", "global"), Method("wanda", "row")
OWL = Method("magnitude", "layer", "owl")
ALPHA = Method("ria", "layer", "alpha-pruning", update="reconstruct")
SPARSEGPT = Method("sparsegpt", "column-block", update="sparsegpt")
DSNOT = Method("wanda", "row", refinement="dsnot")
METHODS = [MAGNITUDE, WANDA, OWL, ALPHA, SPARSEGPT, DSNOT]


@pytest.mark.parametrize(
    ("module", "old", "new", "expected"),
    [
        # An entry's own code, wherever a method uses it.
        ("scores", "return weight.to(norm.dtype).abs() * norm", "return norm", [WANDA, OWL, DSNOT]),
        ("scores", '"ria_power", 0.5', '"ria_power", 0.6', [ALPHA]),
        ("allocation", "2 * float(options", "3 * float(options", [OWL]),
        ("refinement", "CYCLES = 50", "CYCLES = 51", [DSNOT]),
        ("updates", "torch.finfo(hessian.dtype).eps ** 1.5", "0", [ALPHA]),
        # What entries share, and entries themselves.
        ("allocation", "capped |= over", "capped = over", [ALPHA]),
        ("allocation", "for _ in range(200)", "for _ in range(100)", [OWL]),
        ("scores", 'Score(wanda, needs="moments")', 'Score(wanda, needs="hessians")', [WANDA, OWL, DSNOT]),
        ("scores", "Score(magnitude, elementwise=True)", "Score(magnitude)", [MAGNITUDE, OWL]),
        # One more entry.
        ("scores", "SCORES: dict[str, Score] = {", 'SCORES: dict[str, Score] = {\n    "new": Score(wanda),', []),
        # What all use: the context of scores; what pruning itself imports; what slots import.
        ("scores", "seed: int = 0", "seed: int = 1", METHODS),
        ("updates", "BLOCK_SIZE = 128", "BLOCK_SIZE = 64", METHODS),
        ("statistics", "def no_statistics(", "def none_at_all(", METHODS),
    ],
)  # fmt: skip
def test_an_edited_slot_reruns_the_methods_that_use_it(
    tmp_path: Path, module: str, old: str, new: str, expected: list[Method]
) -> None:
    shutil.copytree(SCRIPTS / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SCRIPTS / "prune_weights.py", tmp_path)

    def digests() -> list[str]:
        return [code_digest(tmp_path / "prune_weights.py", tmp_path, method.entries) for method in METHODS]

    before = digests()
    text = (tmp_path / PACKAGE / "methods" / f"{module}.py").read_text(encoding="utf-8")
    assert old in text
    write(tmp_path, f"{PACKAGE}/methods/{module}.py", text.replace(old, new))
    after = digests()
    changed = [method for method, a, b in zip(METHODS, before, after, strict=True) if a != b]
    assert changed == expected


def test_modules_of_slots_hold_what_is_looked_through_and_nothing_else() -> None:
    kinds = ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign
    for module in CHOICES:
        docstring, *body = ast.parse((SCRIPTS / PACKAGE / module).read_text(encoding="utf-8")).body
        assert isinstance(docstring, ast.Expr)
        for node in body:
            typed = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            assert typed or isinstance(node, kinds), f"{module}:{node.lineno}"


def test_raising_the_number_of_what_carries_jobs_reruns_everything(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(root)
    monkeypatch.setattr("essential_sparsity.planning.digests.NUMBERS", 2)
    assert digest(root) != before


def test_the_order_of_keys_does_not_count() -> None:
    assert canonical({"b": [1, {"y": 0, "x": None}], "a": 0.1}) == canonical({"a": 0.1, "b": [1, {"x": None, "y": 0}]})
    assert canonical([1, 2]) != canonical([2, 1]), "the order of a list does"


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(plain, plain)
def test_different_values_have_different_texts(a: object, b: object) -> None:
    # Compared by type as well: 1, 1.0 and True are equal in Python and differ in YAML.
    assert (canonical(a) == canonical(b)) == (repr_sorted(a) == repr_sorted(b))


def repr_sorted(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{k!r}:{repr_sorted(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(repr_sorted, value)) + "]"
    return repr(value)
