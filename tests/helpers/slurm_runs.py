"""Runs of the workflow on a cluster of the tests, with the profile for Slurm and a site's lines of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import tiny
from slurm_cluster import Cluster

PROFILE = tiny.ROOT / "config" / "profiles" / "slurm" / "config.yaml"
# Rules that compute on a GPU if the profile gives them one: no machine of the tests has any.
COMPUTING = [name for name, given in yaml.safe_load(PROFILE.read_text())["set-resources"].items() if "gpu" in given]
DATASET, PRETRAINING = "results/datasets/tiny-kinds.parquet", "results/pretraining/tiny-bert/index.json"


def study(folder: Path) -> dict[str, Any]:
    """Return the smallest study with pre-training, pruning, fine-tuning, tables, figures and a report."""
    config = tiny.study(folder)
    models = config["registries"]["models"]
    models["tiny-bert"]["source"]["recipe"]["corpus"] = "tiny-kinds"
    config["curves"] = [
        {"models": ["tiny-bert"], "checkpoints": ["last"], "methods": ["magnitude-layer"], "sparsities": [0.9],
         "tasks": ["tiny-kind"]}
    ]  # fmt: skip
    del config["weights"]
    return config


class Run:
    """A folder in which the study runs, as one user of a site does.

    The workflow and the interpreter are in folders with a space in their names.

    Args:
        folder: Where all of it is written.
        cluster: Where jobs go, and with which the runs end.
        partition: For jobs without a GPU and, unless another is named, with one.
        gpu_partition: For jobs with a GPU.
        resources: Of rules, besides those of the profile.
        settings: Other lines of the profile.

    Attributes:
        work: The working directory, with the study file and the results.
    """

    def __init__(
        self,
        folder: Path,
        cluster: Cluster,
        partition: str = "cpu",
        gpu_partition: str | None = None,
        resources: Mapping[str, Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> None:
        self.work = folder / "work"
        tiny.write_study(study(self.work), self.work / "study.yaml")
        (folder / "a workflow").symlink_to(tiny.ROOT)
        (folder / "an environment").symlink_to(sys.prefix)
        self._python = folder / "an environment" / "bin" / "python"
        self._snakefile = folder / "a workflow" / "Snakefile"
        self._profile = folder / "profile"
        self._profile.mkdir()
        self._environment = cluster.environment
        config = yaml.safe_load(PROFILE.read_text())
        config["default-resources"]["slurm_partition"] = partition
        for given in config["set-resources"].values():
            if "slurm_partition" in given:
                given["slurm_partition"] = gpu_partition or partition
        for rule, changed in (resources or {}).items():
            config["set-resources"][rule] = {**config["set-resources"].get(rule, {}), **changed}
        site = {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 4, "latency-wait": 10}
        (self._profile / "config.yaml").write_text(yaml.safe_dump({**config, **site, **settings}))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the workflow; what it prints is one text."""
        command = [
            self._python, "-m", "snakemake", "--snakefile", self._snakefile, "--configfile", "study.yaml",
            "--workflow-profile", self._profile, "--nocolor", *arguments,
        ]  # fmt: skip
        return subprocess.Popen(
            command, cwd=self.work, env=self._environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def has_said(self, text: str) -> bool:
        """Say whether a run in this folder has printed something."""
        return any(text in log.read_text() for log in (self.work / ".snakemake" / "log").glob("*.log"))

    def finish(self, *arguments: str) -> tuple[int, str]:
        """Run the workflow to its end; return its status and what it printed."""
        return end_of(self.start(*arguments))


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a run; return its status and what it printed."""
    text, _ = process.communicate(timeout=800)
    return process.returncode, text
