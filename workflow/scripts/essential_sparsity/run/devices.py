"""The device that a job computes on, and what it used there."""

from __future__ import annotations

import ctypes

import torch

from essential_sparsity.errors import UserError
from essential_sparsity.run.usage import peak_resident_mb


def choose_device(gpus: int, threads: int) -> torch.device:
    """Return the device, or the first one, for a job that was given ``gpus`` GPUs and ``threads`` CPU threads.

    Raises:
        UserError: GPUs were given by the profile, but torch sees fewer. Falling back to the CPU would turn a job of
            minutes into one of days without a word.
    """
    torch.set_num_threads(max(1, threads))
    if gpus < 1:
        return torch.device("cpu")
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if visible < gpus:
        raise UserError(
            where="resources.gpu of this rule (set-resources in the profile, or --set-resources)",
            found=f"gpu={gpus}, but torch {torch.__version__} sees {visible or 'no'} CUDA devices",
            expected="a CUDA build of torch and as many visible devices, or gpu=0",
            mend="install a CUDA build of torch, check CUDA_VISIBLE_DEVICES, or set gpu: 0 for the rule",
        )
    return torch.device("cuda", 0)


def device_name(device: torch.device) -> str:
    """Return ``cpu`` or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak of this process in MB (10^6 bytes): of the GPU's allocator on a GPU, else of resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return peak_resident_mb()


def return_freed_memory() -> None:
    """Give memory that was freed back to the system, where the C library keeps it for later (glibc does)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        # Another C library: it has no such call, and most need none.
        return
