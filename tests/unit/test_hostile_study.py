"""Study files of strangers read, run and ask for nothing beyond the project, and the message says what was found."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from essential_sparsity.errors import UserError
from essential_sparsity.limits import MOST_DEPTH, check_values
from essential_sparsity.permissions import MODELS, PATHS, Permissions, check_without_code
from essential_sparsity.study import Study


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tiny study, and the folder that its data lie in."""
    folder = tmp_path_factory.mktemp("project")
    return {"folder": folder, "config": tiny.study(folder)}


@pytest.fixture
def config(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A study to spoil, in whose folder the run is."""
    monkeypatch.chdir(data["folder"])
    monkeypatch.delenv(PATHS, raising=False)
    monkeypatch.delenv(MODELS, raising=False)
    yield yaml.safe_load(yaml.safe_dump(data["config"]))


def plan(config: dict[str, Any], *files: Path) -> Study:
    return Study(config, tiny.ROOT, "study.yaml", Permissions.of_run(files))


def refused(config: dict[str, Any], *says: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(config)
    message = str(caught.value)
    assert message.startswith("study.yaml")
    assert "To mend: " in message
    for text in says:
        assert text in message


def llama(config: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = config["registries"]["models"]["tiny-llama"]
    return entry


# --- what is read ---


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the user's that is no part of the project."""
    file = tmp_path / "secret.csv"
    file.write_text("text,film,kind\na,b,c\n")
    return file


def read_it(config: dict[str, Any], path: Path | str) -> None:
    for dataset in config["registries"]["datasets"].values():
        dataset["source"]["path"] = str(path)


def test_a_study_reads_nothing_outside_the_project_unless_the_user_says_so(
    config: dict[str, Any], secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(config)
    read_it(config, secret)
    refused(config, "registries.datasets.tiny-kinds.source.path", str(secret), "outside the project", PATHS)
    read_it(config, os.path.relpath(secret))
    refused(config, "source.path", f"which is '{secret}'")
    monkeypatch.setenv(PATHS, f"/nowhere{os.pathsep}{secret.parent}")
    plan(config)


def test_links_do_not_lead_out(config: dict[str, Any], secret: Path) -> None:
    Path("innocent.csv").symlink_to(secret)
    Path("folder").mkdir(exist_ok=True)
    (Path("folder") / "link.csv").symlink_to(secret)
    read_it(config, "innocent.csv")
    refused(config, "source.path", "'innocent.csv'", f"which is '{secret}'")
    read_it(config, "folder")
    refused(config, "source.path", "link.csv'", f"which is '{secret}'")
    # A folder of a folder of images: links of links, round in circles.
    (Path("folder") / "link.csv").unlink()
    (Path("folder") / "cats").symlink_to(Path("elsewhere").absolute())
    Path("elsewhere").mkdir()
    (Path("elsewhere") / "back").symlink_to(Path("folder").absolute())
    (Path("elsewhere") / "dogs").symlink_to(secret.parent)
    refused(config, "source.path", "dogs'", f"which is '{secret.parent}'")


def test_hidden_files_of_the_project_are_not_read(config: dict[str, Any]) -> None:
    Path(".git").mkdir(exist_ok=True)
    Path(".git/config").write_text("text\ntoken\n")
    read_it(config, ".git/config")
    refused(config, "source.path", "not hidden")


def test_files_beside_the_study_are_read_but_not_all_of_a_home(
    config: dict[str, Any], secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_it(config, secret)
    plan(config, secret.with_name("mine.yaml"))
    monkeypatch.setenv("HOME", str(secret.parent))
    refused(config, "outside the project")
    with pytest.raises(UserError, match="outside the project"):
        plan(config, secret.with_name("mine.yaml"))
    with pytest.raises(UserError, match="outside the project"):
        plan(config, Path("/mine.yaml"))


def test_the_registries_in_config_are_trusted(config: dict[str, Any], secret: Path, tmp_path: Path) -> None:
    root = tmp_path / "clone"
    (root / "workflow").mkdir(parents=True)
    (root / "workflow" / "schemas").symlink_to(tiny.ROOT / "workflow" / "schemas")
    (root / "config").mkdir()
    read_it(config, secret)
    own = config.pop("registries")
    methods = (tiny.ROOT / "config" / "methods.yaml").read_text()
    calibrations = {"calibrations": {}, **{kind: own[kind] for kind in ("models", "datasets", "tasks")}}
    for kind, entries in calibrations.items():
        (root / "config" / f"{kind}.yaml").write_text(yaml.safe_dump(entries))
    keep = {"magnitude-global", "magnitude-layer", "random-global"}
    kept = {name: entry for name, entry in yaml.safe_load(methods).items() if name in keep}
    (root / "config" / "methods.yaml").write_text(yaml.safe_dump(kept))
    assert Study(config, root, "study.yaml", Permissions(())).name == "tiny"


# --- what is run ---


def test_a_study_cannot_say_that_a_models_code_is_to_be_trusted(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    llama(config)["trust_remote_code"] = True
    refused(config, "tiny-llama.trust_remote_code", "may come from a stranger", f"{MODELS}=tiny-llama")
    monkeypatch.setenv(MODELS, "another, tiny-llama")
    plan(config)


def test_code_in_a_study_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("study: x\n")
    check_without_code([file])
    file.write_text("__use_yte__: true\nstudy: ?__import__('os').getcwd()\n")
    with pytest.raises(UserError, match=r"study\.yaml, key __use_yte__: found a study with Python code.*do not trust"):
        check_without_code([file])


# --- names that become paths ---


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "/etc", "x\n", "x\0", "a\\b", ".", "~", "{x}", "$(x)", "x;y"])
def test_names_stay_names(config: dict[str, Any], name: str) -> None:
    refused({**config, "study": name}, "study")
    for kind in ("models", "datasets", "tasks"):
        entries = config["registries"][kind]
        key, entry = next(iter(entries.items()))
        refused({**config, "registries": {**config["registries"], kind: {**entries, name: entry}}}, kind)
        assert key in entries


@pytest.mark.parametrize(
    "source",
    [
        {"repository": "org/name", "revision": "../../../refs"},
        {"repository": "org/name", "revision": "/etc/passwd"},
        {"repository": "org/name", "revision": "main\n"},
        {"repository": "org/.."},
        {"repository": "../name"},
        {"repository": "org/name/more"},
        {"trajectory": {"repository": "org/name", "revisions": {1: "../../x", 2: "b"}}},
        {"trajectory": {"repository": "org/name", "revision": "../{step}", "steps": [1, 2]}},
        {"trajectory": {"repository": "org/{step.__class__}[0]", "steps": [1, 2]}},
        {"trajectory": {"repository": "o/n-{step}", "steps": [1], "final": {"repository": "o/n", "revision": "a/.."}}},
    ],
)
def test_places_on_the_hub_stay_there(config: dict[str, Any], source: dict[str, Any]) -> None:
    llama(config)["source"] = {"kind": "hub", **source}
    refused(config, "tiny-llama.source")


@pytest.mark.parametrize(
    "wheel",
    [
        {"package": "--index-url=http://x", "version": "1"}, {"package": "a/../b", "version": "1"},
        {"package": "a", "version": "1/../../x"}, {"package": "a", "version": "--pre"},
        {"package": "a", "version": "1", "tags": "py3-none-any --pre"}, {"package": "a\n", "version": "1"},
    ],
)  # fmt: skip
def test_wheels_are_named_by_names(config: dict[str, Any], wheel: dict[str, str]) -> None:
    llama(config)["source"] = {"kind": "wheel", "sha256": "0" * 64, "member": "x", **wheel}
    refused(config, "tiny-llama.source")


# --- how much is asked for ---


def aliases(times: int) -> str:
    """Return YAML in which each line repeats that before it ten times."""
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, times))]
    return "\n".join(lines)


def test_aliases_that_repeat_aliases_are_counted_and_not_written_out() -> None:
    bomb = yaml.safe_load(aliases(40))
    with pytest.raises(UserError, match="more than 1,000,000 values, counted with what aliases"):
        check_values(bomb, "study.yaml")
    check_values(yaml.safe_load(aliases(4)), "study.yaml")
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UserError, match=rf"nested more than {MOST_DEPTH} deep"):
        check_values({"a": endless}, "study.yaml")


def many(config: dict[str, Any], key: str, value: Any) -> None:
    config["curves"][1][key] = value


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda c: many(c, "seeds", list(range(50_000))), "combinations"),
        (
            lambda c: c["curves"][0].update({key: c["curves"][0][key] * 100 for key in ("models", "methods", "tasks")}),
            "",
        ),
        (lambda c: recipe(c).update(checkpoints=10**9), "checkpoints"),
        (lambda c: recipe(c).update(steps=10**12, checkpoint_every=1), "checkpoints"),
        (lambda c: many(c, "sparsities", {"adaptive": {"budget": 10**9}}), "at most 1000"),
        (lambda c: c.update(knees={"draws": 10**9}), "at most 1000000"),
        (lambda c: steps(c, {"from": 0, "to": 10**15, "every": 1}), "checkpoints"),
        (lambda c: steps(c, list(range(100_001))), "checkpoints"),
        (lambda c: many(c, "seeds", [2**70]), "63 bits"),
        (lambda c: c.update(title="x" * 100_001), "100,001 characters"),
        (lambda c: c.update(title="\x1b]0;mine\x07"), "control character '\\x1b'"),
        (lambda c: c.update(title="\u202etxt.exe"), "control character '\\u202e'"),
        (lambda c: c.update(title=b"bytes"), "type bytes"),
        (lambda c: recipe(c).update(learning_rate=math.nan), "a finite number"),
        (lambda c: c["registries"]["datasets"]["tiny-texts"].update(documents="(a"), "documents"),
    ],
)
def test_what_planning_could_not_take_is_refused(
    config: dict[str, Any], spoil: Callable[[dict[str, Any]], object], says: str
) -> None:
    spoil(config)
    refused(config, says)


def recipe(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["registries"]["models"]["tiny-bert"]["source"]["recipe"]
    return found


def steps(config: dict[str, Any], rule: Any) -> None:
    llama(config)["source"] = {"kind": "hub", "trajectory": {"repository": "o/n-{step}", "steps": rule}}


def test_messages_do_not_act_on_a_terminal() -> None:
    error = UserError("file", "the label '\x1b[2Jgone\u202e'", "another", "correct it")
    assert "\\x1b[2Jgone\\u202e" in str(error)
    assert "\x1b" not in str(error)
