"""An executor of Snakemake whose jobs begin, like pods of Kubernetes, in an empty folder with what they declare.

Each job is the command that the plugin for Kubernetes gives to a pod, run in a folder of its own that is removed
afterwards. Only declared variables of the environment and the interpreter's packages come along, as those of a
container image do. Unlike a pod's, that command does not begin with an installation of the storage plugin; and absolute
paths lead to this machine's files.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=True,
    job_deploy_sources=True,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=False,
    # The plugin for Kubernetes says True.
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=1,
)


class Executor(RemoteExecutor):
    """Run each job in an empty folder."""

    def __post_init__(self) -> None:
        self._running: dict[str, tuple[subprocess.Popen[bytes], tempfile.TemporaryDirectory[str]]] = {}

    def run_job(self, job: JobExecutorInterface) -> None:
        """Start a job, if a pod could be asked for: what it needs are numbers."""
        needed = {name: job.resources.get(name) for name in ("mem_mb", "runtime")}
        if not all(isinstance(value, int) for value in needed.values()):
            raise WorkflowError(f"{job.name}: {needed}")
        folder = tempfile.TemporaryDirectory(prefix="pod-")
        environment = {
            **self.envvars(), "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}", "HOME": folder.name,
            "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = ["/bin/sh", "-c", self.format_job_exec(job)]
        # What a pod prints is shown with what the main process prints.
        process = subprocess.Popen(command, cwd=folder.name, env=environment)
        self._running[str(process.pid)] = process, folder
        self.report_job_submission(SubmittedJobInfo(job=job, external_jobid=str(process.pid)))

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Report those that have ended."""
        for info in active_jobs:
            async with self.status_rate_limiter:
                process, folder = self._running[info.external_jobid]
                if process.poll() is None:
                    yield info
                    continue
                folder.cleanup()
                if process.returncode == 0:
                    self.report_job_success(info)
                else:
                    self.report_job_error(info, msg=f"status {process.returncode}")

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """End all jobs."""
        for info in active_jobs:
            self._running[info.external_jobid][0].kill()
