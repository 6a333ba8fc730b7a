"""What each rule needs: memory, a GPU's memory and time, as multiples of what a job reads.

Two things are not told by the sizes of files, and are added: the logits of a batch, and what is kept of a batch between
the layers of a model. Numbers were fitted to what jobs had spent (``results/costs``), with room; a job that needs more
is tried again with as much again. Memory in MB of 10^6 bytes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from essential_sparsity.checkpoints.files import CONFIG
from essential_sparsity.data.tasks import Benchmark, Finetuning, Probe, Windows
from essential_sparsity.methods.statistics import Calibration
from essential_sparsity.pretraining.recipe import AnyRecipe
from essential_sparsity.sources.kinds import Local, Source, Wheel

# A job of a cluster starts Snakemake twice more, and all of them count (130 to 142 MB each on Slurm).
AROUND_MB = 300
# What CUDA keeps in the host's memory, and its context in the GPU's.
_CUDA_HOST_MB = 2500
_CUDA_DEVICE_MB = 600
# As many cores' work does a GPU.
_CORES_OF_A_GPU = 100
_FLOAT = 4e-6  # MB
_USUAL_VOCABULARY = 50_000
_USUAL_LENGTH = 1024
_TOKENS_OF_AN_IMAGE = 197


@dataclass(frozen=True)
class Read:
    """What a job reads.

    Attributes:
        mb: The size of its model's weights, or of all files where it reads no model.
        vocabulary: How many tokens its model has.
    """

    mb: float
    vocabulary: int = _USUAL_VOCABULARY

    @property
    def width(self) -> float:
        """Length of the vector that a token is between layers, 64 times their number.

        That is near the shape of models between 100 million and 10 billion weights (Brown et al., arXiv 2005.14165,
        table 2.1: between 48 and 128 times), and a layer has twelve times its square in weights.
        """
        return float((64 * self.mb / _FLOAT / 12) ** (1 / 3))

    @property
    def depth(self) -> float:
        """How many layers there are."""
        return self.width / 64


def logits(task: Windows | Benchmark, read: Read) -> float:
    """Return what the logits of a batch take, thrice: as they come, as floats, and as probabilities."""
    length = task.window if isinstance(task, Windows) else task.max_length or _USUAL_LENGTH
    return float(3 * task.batch_size * length * read.vocabulary * _FLOAT)


def features(task: Probe, read: Read) -> float:
    """Return what the features of all images take in double precision, four times, and a batch on its way."""
    images: float = 8 * task.train_examples + 16 * task.batch_size * _TOKENS_OF_AN_IMAGE
    return images * read.width * _FLOAT


def training(task: Finetuning, read: Read) -> float:
    """Return what a backward pass reads of a batch of a task's training."""
    length = _TOKENS_OF_AN_IMAGE if task.head == "image_classification" else task.max_length
    return kept(task.micro_batch or task.batch_size, length, read.depth, read.width)


def kept(rows: int, length: int, depth: float, width: float) -> float:
    """Return what layers keep of a batch for the backward pass.

    A layer keeps 34 numbers of each token's width, and five of each pair of tokens and head, of half precision
    (Korthikanti et al., arXiv 2205.05198, equation 1); here two are kept as one float.
    """
    return rows * length * depth * (17 * width + 2.5 * width / 64 * length) * _FLOAT


def pretraining(recipe: AnyRecipe, read: Read) -> float:
    """Return what a training from scratch takes: a model's weights, gradients and moments, a batch and its logits."""
    sizes, rows, vocabulary = recipe.architecture, recipe.batch_size, recipe.vocabulary
    weights = 12 * sizes.num_hidden_layers * sizes.hidden_size**2 + vocabulary * sizes.hidden_size
    layers = kept(rows, recipe.tokens, sizes.num_hidden_layers, sizes.hidden_size)
    return float(4 * weights + 3 * rows * recipe.tokens * vocabulary) * _FLOAT + layers


def calibrating(calibration: Calibration, read: Read) -> float:
    """Return what all sequences are between two layers, the attention of a batch, and sums over pairs of inputs."""
    between = 0 if calibration.activations == "disk" else 4 * calibration.sequences * calibration.length
    attention = 2 * calibration.batch_size * read.width / 64 * calibration.length**2
    return float(between * read.width + attention + 51 * read.width**2) * _FLOAT


def unpacking(source: Source, read: Read) -> float:
    """Return what 4-bit weights take as floats, most of them twice while they are renamed."""
    name = source.member if isinstance(source, Wheel) else source.path if isinstance(source, Local) else ""
    return 7.5 * read.mb if name.endswith(".gguf") else 0.0


@dataclass(frozen=True)
class Need:
    """What the jobs of a rule need.

    Attributes:
        mb: Memory of the host, whatever is read: a process that was forked from the warm one has 400 MB.
        times: Memory for each MB that is read.
        minutes: Time, whatever is read.
        minutes_a_mb: Time of one core for each MB that is read.
        beyond: Memory that files do not tell, from a job's task, calibration, recipe or source.
        gpu: Whether a job can compute on GPUs.
    """

    mb: float = 700
    times: float = 0
    minutes: float = 30
    minutes_a_mb: float = 0
    beyond: Callable[[Any, Read], float] = lambda settings, read: 0.0
    gpu: bool = False

    def memory(self, settings: Any, read: Read, gpus: int) -> int:
        """Return the host's memory: for each GPU a process, whose batches are on the GPU."""
        batch = _CUDA_HOST_MB if gpus else self.beyond(settings, read)
        return math.ceil(max(1, gpus) * (self.mb + self.times * read.mb + batch))

    def gpu_memory(self, settings: Any, read: Read) -> int:
        """Return the memory of a GPU."""
        return math.ceil(_CUDA_DEVICE_MB + self.times * read.mb + self.beyond(settings, read))

    def runtime(self, read: Read, threads: int, gpus: int) -> int:
        """Return the limit on time, in minutes."""
        return math.ceil(self.minutes + self.minutes_a_mb * read.mb / (threads + _CORES_OF_A_GPU * gpus))


NEEDS = {
    "download_package": Need(minutes=240),
    "download_repository": Need(1000, minutes=240),
    "find_steps": Need(1000),
    "prepare_dataset": Need(times=10, minutes_a_mb=0.02),
    "prepare_inputs": Need(times=40, minutes_a_mb=0.2),
    # Words, their pieces and offsets of every text of the corpus are there at once.
    "pretrain_model": Need(times=400, minutes=1440, beyond=pretraining, gpu=True),
    "extract_checkpoint": Need(times=2.5, minutes_a_mb=0.05, beyond=unpacking),
    "list_matrices": Need(),
    "measure_weights": Need(times=0.2, minutes_a_mb=0.02, gpu=True),
    "measure_pretraining": Need(minutes=240, gpu=True),
    "calibrate_model": Need(times=0.2, minutes_a_mb=0.5, beyond=calibrating, gpu=True),
    "plan_pruning": Need(times=0.3, minutes_a_mb=0.01, gpu=True),
    "prune_weights": Need(times=0.2, minutes_a_mb=0.01, gpu=True),
    "prune_blocks": Need(times=0.2, minutes_a_mb=1, beyond=calibrating, gpu=True),
    "prune_iteratively": Need(times=5, minutes=120, minutes_a_mb=40, beyond=training, gpu=True),
    "evaluate_language_model": Need(times=1.5, minutes_a_mb=0.2, beyond=logits, gpu=True),
    "evaluate_benchmark": Need(1000, times=1.5, minutes_a_mb=1, beyond=logits, gpu=True),
    "evaluate_representation": Need(times=1.5, minutes_a_mb=0.5, beyond=features, gpu=True),
    "finetune_model": Need(times=5, minutes=120, minutes_a_mb=40, beyond=training, gpu=True),
    # The examples of a curve, and how often each of thousands of draws has each of them.
    "find_knees": Need(3000, minutes=240),
    "judge_findings": Need(3000, minutes=240),
    "find_changes": Need(4000, minutes=240),
    # All other rules: nothing that grows with a model.
    "tables": Need(2000),
}


def read_by(paths: Iterable[str], weights: str | None) -> Read:
    """Return what a job reads.

    Args:
        paths: Its inputs, of folders all files; without weights in safetensors, of which a tensor at a time is read.
        weights: Those of its model that are its input, if they are.

    Raises:
        FileNotFoundError: One is not there yet; Snakemake asks again when it is.
    """
    if weights:
        return Read(os.path.getsize(weights) / 1e6, _vocabulary(Path(weights).with_name("companions")))
    files = [file for path in map(Path, paths) for file in (path.rglob("*.*") if path.is_dir() else [path])]
    return Read(sum(file.stat().st_size for file in files if file.suffix != ".safetensors") / 1e6)


@cache
def _vocabulary(companions: Path) -> int:
    """Return the number of tokens that a model's configuration names; a usual one where it does not."""
    try:
        found = re.search(r'"vocab_size": *(\d+)', (companions / CONFIG).read_text(encoding="utf-8"))
    except OSError:
        return _USUAL_VOCABULARY
    return int(found[1]) if found else _USUAL_VOCABULARY
