"""The paper-scale studies made so small that stand-ins run them in seconds."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

import tiny
from essential_sparsity.checkpoints.steps import step_of
from essential_sparsity.findings.claims import parts_of
from essential_sparsity.study.resolve import resolve
from essential_sparsity.study.study import Study
from essential_sparsity.study.validation import load_yaml
from standins import MISSING

PAPER = tiny.ROOT / "config" / "studies" / "paper"
# What a task of each protocol is given in place of the paper's settings.
_SETTINGS: dict[str, dict[str, Any]] = {
    "finetune": {"epochs": 1, "batch_size": 8, "max_length": 48, "train_examples": 16, "learning_rate": 0.001},
    "perplexity": {"window": 32, "windows": 4},
    "lm_eval": {"limit": 4},
}
_CALIBRATION = {"sequences": 4, "length": 32}


def kind_of_task(study: Study, name: str) -> tuple[object, ...]:
    """Return what tells tasks apart that the workflow treats differently."""
    task, dataset = study.tasks[name], study.dataset_of(name)
    return task.protocol, dataset.kind, dataset.image is not None, len(dataset.held_out_splits)


def shrink(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study that stand-ins can run, whose substance is the same.

    Kept are the study's name, title, scale, rules and tolerance, its models, methods and measured weights, the levels,
    checkpoints and tasks that findings compare, and every finding of a task that is kept. Of each entry of ``curves``
    go:

    * levels but the middle one, the last one and those that findings name (patterns have theirs anyway), in rounds too;
    * tasks but the first of each kind (protocol, what is predicted of what, further test splits), and where a finding
      ranks tasks, the first three of them;
    * seeds but the first, and where a finding reads the spread over them, the first two;
    * checkpoints but the first two and the last one, and those that findings name.

    Raises:
        UserError: The study is not valid.
    """
    small = copy.deepcopy(dict(config))
    study = resolved(config)
    findings = small.get("findings", [])
    named_levels = {level for f in findings for level in _levels(f)}
    named_steps = {part.checkpoint for claim in study.claims for part in parts_of(claim.of)}
    ranked = {task for f in findings for task in list(f["of"].get("difficulty", ()))[:3]}
    seeds = 2 if any(f["statistic"] in ("variance-share", "mask-similarity") for f in findings) else 1
    for entry in small["curves"]:
        levels = entry["sparsities"]
        entry["sparsities"] = [s for s in levels if s in named_levels | {levels[len(levels) // 2], levels[-1]}]
        kinds = {kind_of_task(study, task): task for task in reversed(entry["tasks"])}
        entry["tasks"] = [task for task in entry["tasks"] if task in ranked | set(kinds.values())]
        entry["seeds"] = entry.get("seeds", [0])[:seeds]
        if "checkpoints" in entry:
            steps = entry["checkpoints"]
            entry["checkpoints"] = [step for step in steps if step in {*steps[:2], steps[-1], *named_steps}]
    evaluated = {level for entry in small["curves"] for level in entry["sparsities"]}
    for method in small.get("registries", {}).get("methods", {}).values():
        if "rounds" in method:
            method["rounds"] = {**method["rounds"], "levels": [s for s in method["rounds"]["levels"] if s in evaluated]}
    tasks = {task for entry in small["curves"] for task in entry["tasks"]}
    if "findings" in small:
        small["findings"] = [kept for f in findings if (kept := _of_tasks(f, tasks))]
    return small


def resolved(config: Mapping[str, Any], root: Path = tiny.ROOT) -> Study:
    """Resolve a study against the registries below a folder; the configuration stays as it is.

    Raises:
        UserError: The study is not valid.
    """
    return resolve(copy.deepcopy(dict(config)), root, "study.yaml")


def _levels(finding: Mapping[str, Any]) -> list[float]:
    levels = finding["of"].get("levels", [])
    return [] if isinstance(levels, str) else list(levels)


def _of_tasks(finding: Mapping[str, Any], tasks: set[str]) -> dict[str, Any] | None:
    """Return a finding with the tasks that are kept; None of one that is about another."""
    of = dict(finding["of"])
    for several in ("difficulty", "tasks"):
        if isinstance(of.get(several), dict):
            of[several] = {task: value for task, value in of[several].items() if task in tasks}
        elif several in of:
            of[several] = [task for task in of[several] if task in tasks]
    named = {part["task"] for part in (of, *map(of.get, ("one", "other", "reference"))) if part and "task" in part}
    return {**finding, "of": of} if named <= tasks else None


def paper_studies() -> dict[str, dict[str, Any]]:
    """Return the paper-scale studies by the names of their files, as they are."""
    return {file.stem: load_yaml(file) for file in sorted(PAPER.glob("*.yaml"))}


def sample(small: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return one study of what the shrunk ones evaluate: a model of each architecture, a task of each kind.

    Its findings are theirs about single curves that it has, and about two such curves.
    """
    axes = {"methods": ["magnitude-global"], "seeds": [0]}
    half, low = {**axes, "sparsities": [0.5]}, {**axes, "sparsities": [0.2]}
    curves = [
        # As many levels as a knee needs.
        {"models": ["bert-base"], "tasks": ["sst2"], **axes, "sparsities": [0.5, 0.9]},
        {"models": ["bert-base"], "tasks": ["stsb", "mnli", "squad"], **half},
        {"models": ["opt-350m", "roberta-10m-1"], "tasks": ["sst2"], **half},
        {"models": ["vit-base", "dino-vit-base", "mae-vit-base", "deit-base"], "tasks": ["cifar10"], **half},
        {"models": ["multiberts-seed-1"], "tasks": ["sst2"], "checkpoints": ["step020000", "step2000000"], **half},
        {"models": ["pythia-160m"], "tasks": ["wikitext-2"], "checkpoints": ["step143000"], **low},
        {"models": ["olmo-2-1b"], "tasks": ["wikitext-2"], "checkpoints": ["step1900000"], **low},
        {"models": ["vicuna-7b", "qwen3-8b"], "tasks": ["mmlu"], **axes, "sparsities": [0.3]},
        {"models": ["llama-3-1-8b"], "tasks": ["wikitext-2"], **half, "methods": ["magnitude-layer", "wanda-c4"]},
    ]
    known = {(m, n, t) for c in curves for m in c["models"] for n in c["methods"] for t in c["tasks"]}
    return {
        "study": "paper-sample",
        "scale": "paper",
        "curves": curves,
        "weights": [{"models": ["multiberts-seed-1"], "checkpoints": ["step020000", "step2000000"]}],
        "knees": {"tolerance": 0.01},
        "findings": [f for study in small.values() for f in study.get("findings", ()) if _is_of(f, known)],
        "registries": {"methods": {"wanda-c4": small["llms"]["registries"]["methods"]["wanda-c4"]}},
    }


def _is_of(finding: Mapping[str, Any], known: set[tuple[str, str, str]]) -> bool:
    """Say whether a finding is about curves at their last checkpoint, all of which are known."""
    of = finding["of"]
    parts = [part for part in (of, *map(of.get, ("one", "other", "reference"))) if part and "task" in part]
    named = {(model, part["method"], part["task"]) for part in parts for model in part["models"]}
    return bool(named) and named <= known and not any("checkpoint" in part for part in parts)


def shrink_registries(folder: Path, studies: Iterable[Mapping[str, Any]]) -> None:
    """Make the registries below ``folder`` fit stand-ins, in place: every entry stays and keeps its source.

    Tasks train for one epoch of 16 rows, windows have 32 tokens, benchmarks four items; calibrations read four such
    windows; MMLU is its first subject; trajectories have the steps that the studies' curves name, and the missing ones.
    """
    tasks = _read(folder / "tasks.yaml")
    for task in tasks.values():
        task |= _SETTINGS.get(task["protocol"], {})
    tasks["mmlu"]["lm_eval_task"] = "mmlu_abstract_algebra"
    for name in ("squad", "squad-v2"):
        tasks[name]["stride"] = 8
    calibrations = {name: {**entry, **_CALIBRATION} for name, entry in _read(folder / "calibrations.yaml").items()}
    wanted: dict[str, set[int]] = {name: {step_of(step) or 0} for name, step in MISSING.items()}
    for study in studies:
        for entry in study["curves"]:
            for name in entry["models"]:
                wanted.setdefault(name, set()).update(step_of(s) or 0 for s in entry.get("checkpoints", []))
    registry = _read(folder / "models.yaml")
    for name, model in registry.items():
        trajectory = model["source"].get("trajectory")
        if trajectory and "revisions" in trajectory:
            revisions = trajectory["revisions"].items()
            trajectory["revisions"] = {step: revision for step, revision in revisions if step in wanted[name]}
        elif trajectory:
            trajectory["steps"] = sorted(wanted[name])
    for file, content in (("tasks", tasks), ("calibrations", calibrations), ("models", registry)):
        (folder / f"{file}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _read(file: Path) -> dict[str, Any]:
    # Entries that share an anchor must not be changed together.
    return copy.deepcopy(dict(load_yaml(file)))
