"""Which devices a job may use, by every name that they have, without CUDA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from essential_sparsity.errors import UserError
from essential_sparsity.run.gpus import Gpu, visible_gpus

SLURM = {"SLURM_JOB_ID": "7"}
ALIKE = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa1111-0000)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa2222-0000)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb3333-0000)
"""
DIVIDED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa1111-0000)
  MIG 3g.20gb     Device  0: (UUID: MIG-part1)
  MIG 2g.10gb     Device  1: (UUID: MIG-part2)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa2222-0000)
"""
MIXED = """GPU 0: NVIDIA GeForce GT 1030 (UUID: GPU-small)
GPU 1: NVIDIA RTX A6000 (UUID: GPU-large)
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Returns what installs a driver whose ``nvidia-smi -L`` runs some lines of shell; until then there is none."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def install(shell: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f'#!/bin/sh\n[ "$*" = -L ] || exit 9\n{shell}\n')
        program.chmod(0o755)

    return install


def listing(text: str) -> str:
    """Return shell that prints a text."""
    return f"/bin/cat <<'END'\n{text}END"


@pytest.mark.parametrize(
    ("text", "named", "expected"),
    [
        (ALIKE, None, ["GPU-aaaa1111-0000", "GPU-aaaa2222-0000", "GPU-bbbb3333-0000"]),
        (ALIKE, "2,0", ["GPU-bbbb3333-0000", "GPU-aaaa1111-0000"]),
        (ALIKE, " 1 , 2", ["GPU-aaaa2222-0000", "GPU-bbbb3333-0000"]),
        (ALIKE, "GPU-bbbb,GPU-aaaa2", ["GPU-bbbb3333-0000", "GPU-aaaa2222-0000"]),
        # One device has one name, whatever it is called.
        (ALIKE, "1,GPU-aaaa2222-0000", ["GPU-aaaa2222-0000"]),
        # As for CUDA, what is no device ends the list.
        (ALIKE, "0,3,1", ["GPU-aaaa1111-0000"]),
        (ALIKE, "0,-1,1", ["GPU-aaaa1111-0000"]),
        (ALIKE, "GPU-aaaa,1", []),
        (ALIKE, "", []),
        (ALIKE, "NoDevFiles", []),
        # Of a GPU that is divided, the parts are the devices, and the GPU's own names mean the first.
        (DIVIDED, None, ["MIG-part1", "MIG-part2", "GPU-aaaa2222-0000"]),
        (DIVIDED, "0,1", ["MIG-part1", "GPU-aaaa2222-0000"]),
        (DIVIDED, "GPU-aaaa1,MIG-part2", ["MIG-part1", "MIG-part2"]),
        (DIVIDED, "MIG-GPU-aaaa1111-0000/1/0", ["MIG-GPU-aaaa1111-0000/1/0"]),
        (MIXED, None, ["GPU-small", "GPU-large"]),
        (MIXED, "GPU-large", ["GPU-large"]),
    ],
)
def test_devices_are_those_that_cuda_would_see_by_names_that_all_runs_share(
    driver: Callable[[str], None], text: str, named: str | None, expected: list[str]
) -> None:
    driver(listing(text))
    environment = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    assert visible_gpus(environment) == [Gpu(name, name) for name in expected]


def test_numbers_of_different_gpus_are_the_drivers_or_nobodys(driver: Callable[[str], None]) -> None:
    driver(listing(MIXED))
    with pytest.raises(UserError, match=r"GT 1030 and NVIDIA RTX A6000.*CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        visible_gpus({"CUDA_VISIBLE_DEVICES": "0"})
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}) == [
        Gpu("GPU-small", "GPU-small")
    ]


def test_without_a_driver_to_ask_names_are_taken_as_they_are(driver: Callable[[str], None]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1,GPU-a"}) == [Gpu("1", "1"), Gpu("GPU-a", "GPU-a")]
    with pytest.raises(UserError, match="no nvidia-smi"):
        visible_gpus({})


@pytest.mark.parametrize("shell", ["echo 'Driver/library version mismatch'; exit 18", "echo mismatch >&2; exit 1"])
def test_a_driver_that_fails_is_an_error_since_other_jobs_may_have_had_its_names(
    driver: Callable[[str], None], shell: str
) -> None:
    driver(shell)
    for environment in ({}, {"CUDA_VISIBLE_DEVICES": "0"}):
        with pytest.raises(UserError, match="mismatch"):
            visible_gpus(environment)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        # Counted from the job's first device, where the others are out of reach; the step says more than the job.
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_GPUS": "2,5"}, [("0", "slurm-2"), ("1", "slurm-5")]),
        ({"CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_GPUS": "2,5", "SLURM_STEP_GPUS": "5"}, [("0", "slurm-5")]),
        # Somebody took one of the job's devices.
        ({"CUDA_VISIBLE_DEVICES": "1", "SLURM_JOB_GPUS": "2,5"}, [("1", "slurm-job-7-1")]),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
    ],
)
def test_slurms_devices_keep_their_names_and_are_known_by_its_numbers(
    driver: Callable[[str], None], environment: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    driver("echo 'not to be asked'; exit 1")
    assert visible_gpus({**SLURM, **environment}) == [Gpu(*names) for names in expected]


def test_a_slurm_job_that_was_given_no_devices_has_the_machines(driver: Callable[[str], None]) -> None:
    driver(listing(ALIKE))
    assert len(visible_gpus(SLURM)) == 3
