"""What the repository says of itself stays true: pins, environments, documented keys, rules and their scripts."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from snakemake.cli import get_argument_parser

from essential_sparsity.planning.needs import NEEDS
from essential_sparsity.report.figures.kinds import KINDS
from essential_sparsity.study.protocols import EVALUATIONS


def pins(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def rules(root: Path) -> dict[str, str]:
    text = "\n".join(path.read_text() for path in sorted((root / "workflow" / "rules").glob("*.smk")))

    def unrolled(loop: re.Match[str]) -> str:
        """Return the rules that a loop over a table makes of its keys, as they would be written one by one."""
        variable, table, body = loop.groups()
        written = ""
        for key in {"EVALUATIONS": EVALUATIONS, "KINDS": KINDS}[table]:
            named = re.sub(rf"\b{variable}\b(?=[,)\n])", f'"{key}"', body.replace(f"{{{variable}}}", key))
            named = re.sub(r'\bf"', '"', named.replace("\n    ", "\n"))
            name = re.findall(r"\w+", named)[1]
            written += f"rule {name}:\n{named}"
        return written

    loops = r"^for (\w+), .* in (\w+)\.items\(\):\n(?:.*\n)*?    rule:\n((?:     .*\n|\n)+)"
    parts = re.split(
        r"^(?:rule|checkpoint) (\w+):\n", re.sub(loops, unrolled, text, flags=re.MULTILINE), flags=re.MULTILINE
    )
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_requirement_is_pinned(root: Path) -> None:
    files = sorted(path.name for path in root.glob("requirements*.txt"))
    assert len(files) == 3
    for name in files:
        for line in (root / name).read_text().splitlines():
            assert re.fullmatch(r"#.*|-r requirements\.txt|[\w.-]+==[\w.!]+", line), line


def test_pins_lie_within_the_ranges(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    exact = {name: version for file in root.glob("requirements*.txt") for name, version in pins(file).items()}
    ranges = [Requirement(r) for r in sum(project["optional-dependencies"].values(), project["dependencies"])]
    assert len(ranges) > 20
    for requirement in ranges:
        assert Version(exact[canonicalize_name(requirement.name)]) in requirement.specifier, requirement


def test_plugins_are_tested_with_the_pins_that_their_users_install(root: Path) -> None:
    users, tests = pins(root / "requirements-slurm.txt"), pins(root / "requirements-dev.txt")
    extra = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["slurm"]
    assert users.keys() == {canonicalize_name(Requirement(r).name) for r in extra}
    assert all(tests[name] == users[name] for name in users)
    assert "requirements-slurm.txt" in (root / "config" / "profiles" / "slurm" / "config.yaml").read_text()


def test_the_conda_environment_has_the_pins_of_all_direct_dependencies(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    direct = {canonicalize_name(Requirement(r).name) for r in project["dependencies"]}
    exact = pins(root / "requirements.txt")
    files = sorted((root / "envs").glob("*.yaml"))
    assert files
    for file in files:
        dependencies = yaml.safe_load(file.read_text())["dependencies"]
        listed = dict(line.split("==") for line in next(d for d in dependencies if isinstance(d, dict))["pip"])
        listed = {canonicalize_name(name): version for name, version in listed.items()}
        assert f"pip={exact['pip']}" in dependencies
        assert listed == {name: exact[name] for name in direct - {"pip"}}


def test_every_rule_is_complete(root: Path) -> None:
    found = rules(root)
    assert len(found) >= 17
    for name, body in found.items():
        for keyword in ("output:", "log:", "threads:", "resources:", "conda:", "message:", "params:", "script:"):
            assert f"    {keyword}" in body, f"{name} has no {keyword}"
        script = "plot" if name.startswith("plot_") else name
        assert f'"../scripts/{script}.py"' in body
        assert re.search(rf'code=(lambda wildcards: )?code\("{script}.py"', body)
        assert "retries:" not in body
        assert (root / "workflow" / "scripts" / f"{script}.py").is_file()
        environment = re.search(r'conda:\s+"\.\./\.\./(envs/\w+\.yaml)"', body)
        assert environment is not None
        assert (root / environment[1]).is_file()


def test_scripts_are_short(root: Path) -> None:
    for script in (root / "workflow" / "scripts").glob("*.py"):
        assert len(script.read_text().splitlines()) <= 80, script.name


def keys(schema: Any) -> Iterator[str]:
    """Yield every key that a schema names."""
    if isinstance(schema, dict):
        properties = schema.get("properties", {})
        if isinstance(properties, dict):
            yield from properties
        for value in schema.values():
            yield from keys(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from keys(value)


# Where a schema's keys are described: the heading of the section.
SECTIONS = {"study": "The study", "source": "Sources", "findings": "Findings"}


def test_every_key_of_the_configuration_is_documented_in_its_section(root: Path) -> None:
    text = re.sub(r"```.*?```", "", (root / "config" / "README.md").read_text(), flags=re.DOTALL)
    sections = dict(re.findall(r"^## `?([\w. ]+?)`?\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE))
    for schema in sorted((root / "workflow" / "schemas").glob("*.yaml")):
        name = schema.name.removesuffix(".schema.yaml")
        section = sections[SECTIONS.get(name, f"{name}.yaml")]
        words = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall(r"`([^`]+)`", section))))
        named = set(keys(yaml.safe_load(schema.read_text())))
        assert named
        assert named <= words, f"{schema.name}: {named - words}"


def profiles(root: Path) -> dict[str, dict[str, Any]]:
    files = [root / "profiles" / "default" / "config.yaml", *(root / "config" / "profiles").glob("*/config.yaml")]
    return {file.parent.name: yaml.safe_load(file.read_text()) for file in files}


def test_there_is_a_profile_for_every_kind_of_machine(root: Path) -> None:
    assert {"default", "laptop", "workstation", "slurm"} <= set(profiles(root))


@pytest.mark.parametrize("key", ["rerun-triggers", "rerun-incomplete", "keep-going", "scheduler"])
def test_what_is_the_same_for_every_profile_is(root: Path, key: str) -> None:
    # Profiles do not merge: each has to say it again.
    values = {name: profile[key] for name, profile in profiles(root).items()}
    assert all(value == values["default"] for value in values.values()), values


def test_profiles_of_machines_retry_what_fails(root: Path) -> None:
    assert all(profile["retries"] >= 1 for name, profile in profiles(root).items() if name != "default")


def test_profiles_name_only_what_snakemake_and_its_plugins_know(root: Path) -> None:
    known = set(get_argument_parser()._option_string_actions)
    for name, profile in profiles(root).items():
        for key in profile:
            assert f"--{key}" in known, f"{name}: {key}"


def test_profiles_with_gpus_agree_but_for_where_they_are(root: Path) -> None:
    gpus, threads = {}, {}
    for name in ("workstation", "slurm"):
        profile = profiles(root)[name]
        gpus[name] = {rule: resources.get("gpu") for rule, resources in profile["set-resources"].items()}
        threads[name] = profile["set-threads"]
    assert gpus["workstation"] == gpus["slurm"]
    assert threads["workstation"] == threads["slurm"]


def test_machines_are_named_in_profiles_only(root: Path) -> None:
    for name, body in rules(root).items():
        resources = re.search(r"^    resources:\n((?:        .*\n|    \).*\n)+)", body, flags=re.MULTILINE)
        assert resources is not None
        # No partition, no kind of GPU, and no GPU at all unless a profile gives one.
        assert not re.search(r"partition|gpu", resources[1]), name


def test_every_rule_says_what_it_needs(root: Path) -> None:
    bodies = rules(root)
    named = {
        name: re.search(r"^        \*\*needs\(\s*(?:\"(\w+)\")?", body, re.MULTILINE) for name, body in bodies.items()
    }
    asked = {name: found[1] for name, found in named.items() if found}
    assert asked.keys() == bodies.keys()
    assert {name for name in asked if asked[name]} == NEEDS.keys() - {"tables"}
    assert all(asked[name] in (None, name) for name in asked)
    # Jobs that leave their costs are those whose needs are worth a row.
    assert {name for name, body in bodies.items() if "cost=" in body} <= NEEDS.keys()


@pytest.mark.parametrize("profile", ["slurm", "workstation"])
def test_profiles_give_a_gpu_to_every_rule_that_can_use_one(root: Path, profile: str) -> None:
    able = {name for name, need in NEEDS.items() if need.gpu}
    given = profiles(root)[profile]
    # Cutting at a threshold is reading a file: a GPU would wait for the disk.
    assert {name for name, resources in given["set-resources"].items() if resources.get("gpu")} == able - {
        "prune_weights"
    }
    assert set(given["set-threads"]) == able


def test_links_of_the_documents_resolve(root: Path) -> None:
    for document in (*root.glob("*.md"), root / "config" / "README.md", *(root / "docs").rglob("*.md")):
        for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            assert link.startswith("https://") or target.exists(), f"{document}: {link}"
            if anchor and not link.startswith("https://"):
                headings = re.findall(r"^#+ (.*)$", target.read_text().lower(), flags=re.MULTILINE)
                assert anchor in {heading.replace(" ", "-") for heading in headings}, f"{document}: {link}"


def test_commands_of_the_readme_exist(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)", (root / "README.md").read_text(), flags=re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_every_fault_is_listed_with_tests_that_exist(root: Path) -> None:
    rows = re.findall(r"^\| (?!Fault|-)(.*) \|$", (root / "docs" / "faults.md").read_text(), flags=re.MULTILINE)
    written = {
        name for file in (root / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.split(" | ")[-1])
        assert named and set(named) <= written, row
    # And the other way round: no test of a fault is missing there.
    tests = re.findall(r"^def (test_\w+)", (root / "tests/workflow/test_faults.py").read_text(), flags=re.MULTILINE)
    assert set(tests) <= {name for row in rows for name in re.findall(r"`(test_\w+)`", row)}


def test_names_of_files_do_not_reach_a_shell_through_make(root: Path) -> None:
    # `make plan STUDY=...` hands it on in the environment: a recipe writes "$$STUDY", which no shell reads again.
    recipes = re.findall(r"^\t.*$", (root / "Makefile").read_text(), flags=re.MULTILINE)
    assert len(recipes) > 20
    assert not [line for line in recipes if re.search(r"\$[({](STUDY|PROFILE|JSON|TABLES|RESULTS)[)}]", line)]
