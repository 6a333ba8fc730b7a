"""A Slurm cluster of this machine alone, with five nodes and GPUs that are none, from Debian's packages.

``with Cluster() as cluster`` starts it: munge with a key of its own, a controller, and a slurmd for each node, all
below one temporary folder, with nothing under ``/etc``. A process of its own keeps the daemons: when its standard input
ends, because the block has ended or because whoever started it was killed, nothing of it is left, jobs included.

By hand: ``python tests/slurm/cluster.py FOLDER`` says what to set, and runs until its standard input ends (Control-D).

The packages: ``apt-get install --no-install-recommends slurmctld slurmd slurm-client munge``. Nodes share this host and
only pose as machines: memory limits are real (jobs over theirs are killed), cores are not counted against the host's.
"""

from __future__ import annotations

import ctypes
import getpass
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]

# The partitions and their nodes: each scenario has nodes of its own, so that a node can die in one of them.
NODES = ("n1", "n2", "n3", "n4", "n5")
PARTITIONS = {"cpu": "n[1-2]", "gpu": "n[1-2]", "other": "n3", "dying": "n[4-5]"}
GPUS = 2
NODE_SECONDS = 10  # after which a silent node is given up
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def configuration(folder: Path, port: int) -> dict[str, str]:
    """Return the text of each of Slurm's files."""
    host, user = socket.gethostname().split(".")[0], getpass.getuser()
    general = f"""
        ClusterName=test
        SlurmctldHost={host}(127.0.0.1)
        SlurmctldPort={port}
        SlurmUser={user}
        SlurmdUser={user}
        AuthType=auth/munge
        AuthInfo=socket={folder}/munge.socket
        CredType=cred/munge
        StateSaveLocation={folder}/state
        SlurmdSpoolDir={folder}/spool/%n
        SlurmctldPidFile={folder}/slurmctld.pid
        SlurmdPidFile={folder}/%n.pid
        SlurmctldLogFile={folder}/log/slurmctld
        SlurmdLogFile={folder}/log/%n
        ProctrackType=proctrack/linuxproc
        TaskPlugin=task/none
        MpiDefault=none
        SwitchType=switch/none
        AccountingStorageType=accounting_storage/none
        JobAcctGatherType=jobacct_gather/linux
        JobAcctGatherFrequency=1
        JobAcctGatherParams=OverMemoryKill
        SelectType=select/cons_tres
        SelectTypeParameters=CR_CPU_Memory
        SchedulerType=sched/backfill
        SchedulerParameters=bf_interval=1,sched_min_interval=0,batch_sched_delay=0
        SlurmdParameters=config_overrides
        SlurmdTimeout={NODE_SECONDS}
        ReturnToService=2
        InactiveLimit=0
        KillWait=2
        MinJobAge=3600
        JobRequeue=1
        GresTypes=gpu"""
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + number} CPUs=8 RealMemory=32000 "
        f"Gres=gpu:{GPUS} State=UNKNOWN"
        for number, name in enumerate(NODES, start=1)
    ]
    partitions = [
        f"PartitionName={name} Nodes={nodes} MaxTime=1-00:00:00 State=UP Default={'YES' if name == 'cpu' else 'NO'}"
        for name, nodes in PARTITIONS.items()
    ]
    devices = [f"NodeName={name} Name=gpu File={folder}/nvidia[0-{GPUS - 1}]" for name in NODES]
    return {
        "slurm.conf": "\n".join([*(line.strip() for line in general.split("\n")), *nodes, *partitions, ""]),
        "gres.conf": "\n".join([*devices, ""]),
        # No cgroup is made with these plugins; Debian's slurmd wants to load one that fits the host all the same.
        "cgroup.conf": "CgroupPlugin=cgroup/v1\n",
    }


def free_ports(number: int) -> int:
    """Return the first of so many ports in a row that nobody listens at."""
    for first in range(20_000 + os.getpid() % 5_000, 32_000, number):
        with suppress(OSError):
            for port in range(first, first + number):
                with socket.socket() as listener:
                    listener.bind(("127.0.0.1", port))
            return first
    raise OSError("no ports are free")


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which programs talk to the cluster."""
    # Nothing of a cluster that this process itself may run on.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
    return {**own, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}{os.pathsep}{SEARCHED}"}


def processes(folder: Path, **having: str) -> Iterator[int]:
    """Yield the processes of a cluster, daemons and jobs: those with its configuration in their environment.

    Args:
        folder: The cluster's folder.
        having: What else their environment has.
    """
    wanted = {f"{name}={value}" for name, value in {"SLURM_CONF": f"{folder}/slurm.conf", **having}.items()}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and wanted <= set((entry / "environ").read_bytes().decode().split("\0")):
                yield int(entry.name)


def kill(found: Iterator[int]) -> None:
    """Kill processes at once."""
    for process in found:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def until(holds: Callable[[], object], seconds: float = 300, what: str = "") -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: It has not held in time.
    """
    limit = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > limit:
            raise TimeoutError(f"not within {seconds:.0f} s: {what or holds}")
        time.sleep(0.2)


class Daemons:
    """What runs of a cluster; for the process that keeps it.

    Args:
        folder: An empty folder; a socket's path has to be short.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = environment(folder)
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the daemons, and wait until all nodes take jobs.

        Raises:
            TimeoutError: They do not; the folder's ``log`` says why.
        """
        folder = self._folder
        for name in ("bin", "log", "state", "spool"):
            (folder / name).mkdir()
        for name, text in configuration(folder, free_ports(1 + len(NODES))).items():
            (folder / name).write_text(text)
        for number in range(GPUS):
            # Slurm takes a device's file only if it is a device.
            (folder / f"nvidia{number}").symlink_to(os.devnull)
        # Within a job, the plugin takes SLURM_CONF out of srun's environment: in a cluster it would be in /etc.
        wrapper = folder / "bin" / "srun"
        srun = shutil.which("srun", path=SEARCHED)
        assert srun is not None
        wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={shlex.quote(str(folder))}/slurm.conf exec {srun} "$@"\n')
        wrapper.chmod(0o755)
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        self._run(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munge.pid", f"--log-file={folder}/log/munge", f"--seed-file={folder}/munge.seed",
        )  # fmt: skip
        until((folder / "munge.socket").exists)
        self._run("slurmctld", "-D", "-i")
        for name in NODES:
            self._run("slurmd", "-D", "-N", name, CLUSTER_NODE=name)
        until(self._is_up, what=f"the nodes of {folder}")

    def _run(self, *command: str, **variables: str) -> None:
        program = shutil.which(command[0], path=SEARCHED)
        assert program is not None
        with open(self._folder / "log" / "output", "ab") as log:
            process = subprocess.Popen(
                [program, *command[1:]], env={**self._environment, **variables}, cwd=self._folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_end_with_parent,
            )  # fmt: skip
        self._running.append(process)

    def _is_up(self) -> bool:
        command = ["sinfo", "--noheader", "--Node", "--states=idle", "--responding", "--format=%N"]
        found = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        return set(found.stdout.split()) == set(NODES)

    def stop(self) -> None:
        """End all daemons, jobs and what jobs have started, and whoever still waits for them."""
        for process in reversed(self._running):
            process.terminate()
        limit = time.monotonic() + 3
        for process in self._running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, limit - time.monotonic()))
        while others := [number for number in processes(self._folder) if number != os.getpid()]:
            kill(iter(others))
            for process in self._running:
                process.poll()
            time.sleep(0.05)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)


class Cluster:
    """A cluster that others use.

    Attributes:
        folder: Where its files are, logs in ``log``; there while the cluster runs.
    """

    def __init__(self) -> None:
        self.folder = Path()
        self._keeper: subprocess.Popen[str] | None = None

    def __enter__(self) -> Cluster:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        # In a session of its own: what interrupts the tests at a terminal must not end it before it can clean up.
        self._keeper = subprocess.Popen(
            [sys.executable, __file__, str(self.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self._keeper.stdout is not None
        if not self._keeper.stdout.readline():
            self.__exit__()
            raise RuntimeError("the cluster did not come up")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._keeper is not None
        self._keeper.communicate()

    @property
    def environment(self) -> dict[str, str]:
        """What programs that talk to the cluster need in their environment."""
        return environment(self.folder)

    def run(self, *command: str) -> str:
        """Run a command of Slurm's and return what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    def jobs(self, run_in: Path, rule: str = "") -> dict[int, str]:
        """Return the state of every job that was submitted in a folder, of all rules or of one, by its number."""
        table = self.run("squeue", "--noheader", "--states=all", "--format=%i\t%T\t%Z\t%k").splitlines()
        rows = [line.split("\t", 3) for line in table]
        wanted = re.compile(rf"rule_{rule}(_wildcards_.*)?" if rule else ".*")
        return {int(i): state for i, state, where, comment in sorted(rows, key=lambda row: int(row[0]))
                if Path(where) == run_in and wanted.fullmatch(comment)}  # fmt: skip

    def running(self, run_in: Path, rule: str) -> int:
        """Wait until a job of a rule runs, and return its number."""
        found: list[int] = []

        def is_running() -> bool:
            found[:] = [number for number, state in self.jobs(run_in, rule).items() if state == "RUNNING"]
            return bool(found)

        until(is_running, 600, f"a running job of {rule}")
        return found[0]

    def details(self, job: int) -> dict[str, str]:
        """Return what ``scontrol show job -d`` says of a job, by name."""
        words = self.run("scontrol", "show", "job", "-d", str(job)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def signal(self, job: int, number: signal.Signals) -> None:
        """Send a signal to all that a job has started, once its step has; stopped, it is a running job to Slurm."""
        until(lambda: any(processes(self.folder, SLURM_JOB_ID=str(job), SLURM_STEP_ID="0")), what=f"a step of {job}")
        reached: set[int] = set()
        # What a process starts before the signal reaches it is found in the next round.
        while left := set(processes(self.folder, SLURM_JOB_ID=str(job))) - reached:
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, number)
            reached |= left

    def kill_node(self, name: str) -> None:
        """Kill a node as a loss of power would: its daemon, then all that ran on it."""
        os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGKILL)
        kill(processes(self.folder, CLUSTER_NODE=name))
        kill(processes(self.folder, SLURMD_NODENAME=name))


def main() -> None:
    """Keep a cluster in the folder that the arguments name until standard input ends."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    daemons = Daemons(folder)
    try:
        daemons.start()
        found = environment(folder)
        print(f"export SLURM_CONF={shlex.quote(found['SLURM_CONF'])} PATH={shlex.quote(found['PATH'])}", flush=True)
        sys.stdin.read()
    finally:
        daemons.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
