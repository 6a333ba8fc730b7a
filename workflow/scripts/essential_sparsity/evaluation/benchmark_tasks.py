"""Tasks of the lm-evaluation-harness, made to read staged files instead of the model hub."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from essential_sparsity.data.tasks import Benchmark
from essential_sparsity.errors import UserError, did_you_mean, first_line, quoted
from essential_sparsity.evaluation.benchmark_files import READERS, split_files

# The seeds that lm-eval's own command line sets; examples of few-shot prompts are drawn from the last.
_PYTHON_SEED, _SEED = 0, 1234

# What lm-eval knows of a task.
Config = Mapping[str, Any]

_SPLITS = ("training_split", "validation_split", "test_split")


@dataclass(frozen=True)
class LoadedTasks:
    """The tasks behind one name, with their data.

    Attributes:
        name: The name of the task, group or tag.
        loaded: What lm-eval's ``evaluate`` takes: ``tasks``, ``groups`` and ``group_map``.
        files: The files that are evaluated, by the name of the task.
    """

    name: str
    loaded: Mapping[str, Any]
    files: Mapping[str, list[str]]

    @property
    def tasks(self) -> Mapping[str, Any]:
        """The tasks that are not groups, by name."""
        tasks: Mapping[str, Any] = self.loaded["tasks"]
        return tasks

    def seed(self) -> None:
        """Let the next evaluation draw the same examples for its prompts as lm-eval's command line does."""
        for task in self.tasks.values():
            task.set_fewshot_seed(seed=_SEED)


@contextmanager
def offline() -> Iterator[None]:
    """Keep the libraries of the model hub from the network, even from counting downloads.

    Metrics that lm-eval itself lacks are programs on the hub, which the package ``evaluate`` would fetch and run.
    """
    import datasets.config
    import huggingface_hub.constants

    with (
        # Where a task needs that package, lm-eval imports it, and it reads the environment.
        patch.dict(os.environ, HF_EVALUATE_OFFLINE="1"),
        patch.object(datasets.config, "HF_HUB_OFFLINE", True),
        patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True),
    ):
        yield


def load_tasks(task: Benchmark, folder: Path, repository: str | None, scratch: Path, where: str) -> LoadedTasks:
    """Load a task, or all tasks of a group or tag, with data from staged files.

    Only the splits that are read are needed: the one that is evaluated and, with examples in the prompt, theirs.

    Args:
        task: Which one, of which split, with how many examples in the prompt.
        folder: The staged files, laid out as in the repository.
        repository: The repository that they are of; None if that is not known.
        scratch: A folder for what is made on the way; it must live as long as the tasks.
        where: What is evaluated, for messages.

    Raises:
        UserError: lm-eval has no such task, it reads another repository or cannot be pointed to files, the files lack
            something, or are not as the task expects them.
    """
    import random

    import jinja2
    import numpy as np
    from datasets.exceptions import DatasetsError

    name = task.lm_eval_task
    where = f"{where}, lm_eval_task {name}"
    manager = _manager(name)
    leaves = list(dict.fromkeys(_leaves(name, manager.task_index, where)))
    files: dict[str, list[str]] = {}
    for leaf in leaves:
        entry = manager.task_index[leaf]
        _check_redirectable(leaf, entry, repository, where)
        changes, evaluated = _redirected(entry.cfg, task, folder, scratch, f"{where}, task {leaf}")
        files[leaf] = changes["dataset_kwargs"]["data_files"][evaluated]
        wrapper = scratch / f"{len(files)}.yaml"
        wrapper.write_text(yaml.safe_dump({"include": str(entry.yaml_path), **changes}), encoding="utf-8")
        manager.task_index[leaf] = replace(entry, yaml_path=wrapper)
    # Some tasks shuffle their choices when they are read.
    random.seed(_PYTHON_SEED)
    np.random.seed(_SEED)
    try:
        loaded = manager.load([name])
    except (LookupError, ValueError, TypeError, AttributeError, jinja2.TemplateError, DatasetsError) as error:
        raise UserError(
            where=f"{where}, folder {folder}",
            found=f"rows that it cannot read ({type(error).__name__}: {first_line(error)}), the first one or all",
            expected="rows with the columns that the task asks for, and with an answer",
            mend="check the columns and the first row of the files, or choose a split that has answers",
        ) from error
    _check_shots(loaded["tasks"], task.shots, where)
    return LoadedTasks(name, loaded, files)


def _manager(name: str) -> Any:
    """Return a manager of lm-eval's tasks that knows this one.

    Reading the definitions of all 14 000 tasks takes 5 s or more. A task that is defined in one file is found by its
    name first, and only the files beside it are read.
    """
    import lm_eval.tasks

    definition = re.compile(rb"""^["']?task["']?:\s*["']?""" + re.escape(name).encode() + rb"""["']?\s*$""", re.M)
    paths = Path(lm_eval.tasks.__file__).parent.rglob("*.yaml")
    homes = [path.parent for path in paths if definition.search(path.read_bytes())]
    if len(homes) == 1:
        manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=homes[0])
        if name in manager.all_subtasks:
            return manager
    return lm_eval.tasks.TaskManager()


def _leaves(name: str, index: Config, where: str) -> Iterator[str]:
    """Yield the names of the tasks behind a name, groups and tags resolved.

    Raises:
        UserError: There is no such task, or a group defines one within itself.
    """
    if name not in index:
        raise UserError(
            where=where,
            found=f"the name '{name}', which is no task, group or tag",
            expected="a name that `lm_eval ls tasks` lists",
            mend=did_you_mean(name, index),
        )
    entry = index[name]
    if entry.kind.name == "TAG":
        members = sorted(entry.tags)
    elif entry.kind.name == "GROUP":
        items = [item if isinstance(item, dict) else {"task": item} for item in entry.cfg.get("task") or []]
        members = [item.get("group") or item["task"] for item in items]
    else:
        yield name
        return
    for member in members:
        yield from _leaves(member, index, f"{where}, {entry.kind.name.lower()} {name}")


def _check_redirectable(leaf: str, entry: Any, repository: str | None, where: str) -> None:
    """Check that a task reads a dataset of the hub, the one that is staged, and runs nothing.

    Raises:
        UserError: It does not.
    """
    reads = entry.cfg.get("dataset_path")
    options = set(entry.cfg.get("dataset_kwargs") or {}) - {"trust_remote_code"}
    why = None
    if entry.kind.name != "TASK" or not reads or options or entry.cfg.get("custom_dataset"):
        why = "whose data are not simply a split of a dataset"
    elif entry.cfg.get("unsafe_code"):
        why = "that runs what the model writes as a program"
    if why:
        raise UserError(
            where=f"{where}, task {leaf}",
            found=f"a task {why}",
            expected="a task in YAML with `dataset_path`, no options of its own for loading it, and nothing to run",
            mend="choose another task",
        )
    if repository is not None and reads.lower() != repository.lower():
        raise UserError(
            where=f"{where}, task {leaf}",
            found=f"that it reads the repository {reads}, and that the task's dataset is {repository}",
            expected="the repository that lm-eval's task reads",
            mend=f"write `repository: {reads}` in the dataset's entry, or give the task the dataset with that one",
        )


def _redirected(config: Config, task: Benchmark, folder: Path, scratch: Path, where: str) -> tuple[Config, str]:
    """Return what to change in a task's configuration so that it reads staged files, and the split it evaluates.

    Raises:
        UserError: The files lack a split or a configuration, or the number of shots is fixed.
    """
    own = "test_split" if config.get("test_split") else "validation_split"
    evaluated = task.split or config[own]
    changes: dict[str, Any] = {**dict.fromkeys(_SPLITS), own: evaluated, "num_fewshot": _shots(config, task, where)}
    splits = {evaluated}
    if changes["num_fewshot"]:
        key, drawn_from = _shots_split(config)
        if drawn_from == evaluated != config[own]:
            raise UserError(
                where=f"{where}, key split",
                found=f"'{evaluated}', from which the examples of the prompts are drawn",
                expected="another split than that, or no shots",
                mend="write `shots: 0`, or another split",
            )
        splits |= {drawn_from} - {None}
        if key in _SPLITS:
            changes[key] = drawn_from
    else:
        # Their split would be loaded all the same.
        changes |= {"fewshot_split": None, "fewshot_config": None}
    files = {split: split_files(folder, config.get("dataset_name"), split, where) for split in sorted(splits)}
    data_files = {split: [str(path.resolve()) for path in found] for split, found in files.items()}
    changes |= {
        "dataset_path": READERS[files[evaluated][0].suffix],
        "dataset_name": None,
        "dataset_kwargs": {"data_files": data_files, "cache_dir": str(scratch / "cache")},
    }
    return changes, evaluated


def _shots(config: Config, task: Benchmark, where: str) -> int:
    """Return the number of examples in a prompt.

    Raises:
        UserError: lm-eval would not follow what is asked.
    """
    fixed, asked = config.get("num_fewshot"), task.shots
    if fixed == 0 and asked:
        raise UserError(
            where=f"{where}, key shots",
            found=f"{asked} shots",
            expected="null or 0: the task fixes its prompt, without examples",
            mend="write `shots: null`",
        )
    return int((fixed if asked is None else asked) or 0)


def _shots_split(config: Config) -> tuple[str, str | None]:
    """Return the split that examples in prompts are drawn from, in lm-eval's order, and the key that names it.

    The split is None if the task brings its own examples.
    """
    inner = config.get("fewshot_config") or {}
    named = inner.get("split") or config.get("fewshot_split")
    if named or inner.get("samples"):
        return "fewshot_split", named
    return next((key, config[key]) for key in _SPLITS if config.get(key))


def _check_shots(tasks: Config, shots: int | None, where: str) -> None:
    """Check that there are examples enough for the prompts.

    Raises:
        UserError: There are fewer than shots.
    """
    for name, task in tasks.items():
        wanted = task.config.num_fewshot or 0
        found = len(list(task.fewshot_docs())) if wanted else 0
        if found < wanted:
            raise UserError(
                where=f"{where}, task {name}, key shots",
                found=f"{wanted} shots and {found} examples to take them from",
                expected=f"at most {found} shots",
                mend=f"write `shots: {found}`" if shots else "write `shots: 0`",
            )


def answers(task: Any, doc: Any, choices: list[str]) -> list[int]:
    """Return the places of the right answers among the choices of an item; empty if there is none.

    Args:
        task: lm-eval's task.
        doc: The item.
        choices: Its choices.
    """
    found = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    listed = found if isinstance(found, list) else [found]
    places = [choices.index(a) if isinstance(a, str) and a in choices else a for a in listed]
    valid = all(isinstance(place, int) and 0 <= place < len(choices) for place in places)
    return [int(place) for place in places] if valid else []


def check_answers(tasks: LoadedTasks, limit: int | None, where: str) -> None:
    """Check that every item of multiple choice that will be evaluated has its answer.

    lm-eval counts an item without one as answered wrongly: hidden test sets would pass as models at zero.

    Raises:
        UserError: One has none; names the task, the files and the row.
    """
    import jinja2

    for name, task in tasks.tasks.items():
        if task.OUTPUT_TYPE != "multiple_choice" or task.config.process_results is not None:
            continue
        for row, doc in enumerate(itertools.islice(task.eval_docs, limit)):
            try:
                choices = task.doc_to_choice(doc)
                known = answers(task, doc, choices)
                why = f"an answer that is none of the {len(choices)} choices"
            except (LookupError, ValueError, TypeError, SyntaxError, jinja2.TemplateError) as error:
                known, why = [], f"no answer that can be read ({type(error).__name__}: {first_line(error)})"
            if not known:
                split = task.config.test_split or task.config.validation_split
                raise UserError(
                    where=f"{where}, task {name}, split {split} ({quoted(tasks.files[name])}), row {row}",
                    found=why,
                    expected="the place or the text of the right choice",
                    mend="give the row its answer, lower `limit`, or set `split` to one that has answers"
                    " (those of hidden test sets are left out by their authors)",
                )
