"""All that the workflow takes from Snakemake's insides, tested with Snakemake 9.27.1.

Patches say which request upstream would make them needless, and what happens where a newer Snakemake lacks what they
touch. What is only read (of ``workflow``, a private object of every Snakefile) ends the run as it begins where it is
gone, by an AttributeError that names it. The log handler of ``make plan`` (``workflow/planner``) is Snakemake's own
interface, but for the keys of its records.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from snakemake.common import overwrite_function_params
from snakemake.resources import Resource
from snakemake.script import PythonScript
from warm_process import WarmProcess


def start_jobs_warm() -> None:
    """Run scripts in forks of one process a run instead of an interpreter each.

    Upstream: issue 3143 (warm workers). Where `PythonScript.execute_script` is gone, the run ends as it begins, by an
    AttributeError that names it; without this call jobs start as Snakemake starts them, some seconds later each.
    """
    cold, warm = PythonScript.execute_script, WarmProcess()

    def execute_script(self: Any, fname: str, edit: bool = False) -> None:
        elsewhere = self.conda_env or self.container_img or self.env_modules or self.shadow_dir
        given = _environment(self.threads, self.resources)
        status = None if elsewhere or self.bench_record else warm.run(str(Path(fname).resolve()), self.threads, given)
        if status is None:
            cold(self, fname, edit)
        elif status:
            raise subprocess.CalledProcessError(status, fname)

    PythonScript.execute_script = execute_script


def escape_interpreter() -> None:
    """Let Snakemake start Python in a folder with a space in its name: it takes the path for words of a shell.

    Upstream: issue 2645. Once that is mended, an escaped path would be no path: jobs then fail at once in such folders,
    and in no others, since nothing else is escaped. Escaped, not quoted: processes that are submitted to clusters are
    given all but the last part of the path, in quotes again.
    """
    sys.executable = re.sub(r"([^\w@%+=:,./-])", r"\\\1", sys.executable)


def let_scripts_import(library: Path) -> None:
    """Let scripts that start by themselves find the library: of a module from GitHub each comes without it."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(library), os.environ.get("PYTHONPATH")]))


def _environment(threads: int, resources: Any) -> dict[str, str]:
    """Return what Snakemake sets for a command (`snakemake.shell`), as far as a script reads it."""
    numbers = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    folder = resources.get("tmpdir") or os.environ.get("TMPDIR")
    return numbers | ({"TMPDIR": folder, "TMP": folder, "TEMP": folder} if folder else {})


def remember_parameters(workflow: Any) -> None:
    """Tell Snakemake what rules' functions take, and where scripts lie: it asks both again for every job.

    Upstream: no request yet. Where it is gone, planning 10,000 jobs takes some seconds longer; where the import is, the
    run ends as it begins.
    """
    functions = [Resource.evaluate]
    for rule in workflow.rules:
        functions += [value for value in rule.params if callable(value)]
        functions += [each._evaluator for each in rule.resources.values() if each.is_evaluable()]
    for function in functions:
        # What takes no attributes is inspected as before.
        with suppress(AttributeError, TypeError, ValueError):
            overwrite_function_params(function, inspect.signature(function).parameters)
    with suppress(AttributeError):
        workflow.sourcecache._cache = cache(workflow.sourcecache._cache)


def is_main(workflow: Any) -> bool:
    """Say whether this is a run's main process, not that of a job on a cluster, which reads the Snakefile, too."""
    return bool(workflow.is_main_process)


def runs_jobs_here(workflow: Any) -> bool:
    """Say whether jobs run on this machine."""
    return bool(workflow.local_exec and not workflow.touch)


def study_files(workflow: Any) -> list[Path]:
    """Return the files of ``--configfile``."""
    return list(map(Path, workflow.overwrite_configfiles))


def given_resources(workflow: Any, rule: str) -> dict[str, Any]:
    """Return what ``set-resources`` gives a rule; what is computed for each job is left out."""
    given = workflow.resource_settings.overwrite_resources.get(rule, {})
    return {name: resource.value for name, resource in given.items() if not resource.is_evaluable()}


def rules_to_run(workflow: Any) -> set[str]:
    """Return the rules of the jobs that a run is about to start."""
    return {job.rule.name for job in workflow.dag.needrun_jobs()}


def slurm_prefix(workflow: Any) -> str | None:
    """Return how the names of the run's jobs on Slurm begin; None where it submits none."""
    if workflow.executor_plugin.name != "slurm":
        return None
    return workflow.executor_settings.jobname_prefix or ""
