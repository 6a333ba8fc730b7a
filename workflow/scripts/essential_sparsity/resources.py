"""What a job needs: memory, disk and time, as functions of the model's size and the task.

Constants were fitted to what jobs of the default study and of the desk studies had spent (``results/costs``); products
of sizes follow from what a job holds. ``tests/check_resources.py`` compares the memory with what finished jobs used:
never under, and less than twice as much. Times are for orders of magnitude only, on one CPU core of 2025 or one GPU.

All memory and disk in MB of 10^6 bytes, times in seconds, operations as floating-point multiplications and additions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from essential_sparsity.model_size import ModelSize

# A process that has the library imported, or was forked from one that has.
PROCESS_MB = 500.0
# A job of a cluster starts Snakemake twice more, and all of them count (130 to 142 MB each on Slurm).
AROUND_MB = 300
# What a job counts before it does anything where it was forked: the starter's server has the library imported. Jobs
# that start by themselves and import little count less, and nobody can say beforehand which those are.
FORKED_MB = 400.0
# Besides, what training, and what pruning itself, import and hold of any model.
TRAINING_MB = 150.0
PRUNING_MB = 170.0
# What CUDA keeps in the host's memory, and its context in the GPU's.
_CUDA_HOST_MB = 2500.0
_CUDA_DEVICE_MB = 600.0

_FLOAT = 4e-6  # MB
_CPU_OPERATIONS = 1e11
_GPU_OPERATIONS = 2e13
_START_SECONDS = 3.0
_DOWNLOAD_MB_A_SECOND = 10.0
# Most tokens or rows of a task where nothing says how many, such as WikiText-2's 300,000.
_USUAL_TOKENS = 300_000
_USUAL_ROWS = 100_000
_IMAGE_TOKENS = 197
# Of an item of multiple choice, all its answers together, and of an example that goes before it (counted on ARC and
# MMLU); and items of the tasks that are met most, of which a subject of MMLU has 57th parts.
_ITEM_TOKENS = 100
_ITEMS = {
    "arc_challenge": 1_172, "arc_easy": 2_376, "boolq": 3_270, "hellaswag": 10_042, "mmlu": 14_042, "openbookqa": 500,
    "piqa": 1_838, "winogrande": 1_267,
}  # fmt: skip
_USUAL_ITEMS = 2000
# A limit on time leaves room for a busy machine, and a disk that is slow.
_PATIENCE = 5.0
_PATIENCE_MINUTES = 15


@dataclass(frozen=True)
class Need:
    """What a job needs.

    Attributes:
        host_mb: Memory that is the host's whatever computes.
        work_mb: Memory of the device that computes: the host's, or a GPU's.
        input_mb: Files that are read.
        output_mb: Files that are written.
        operations: Floating-point operations of the device.
        seconds: Everything else, the start of the process left out.
    """

    host_mb: float = PROCESS_MB
    work_mb: float = 0.0
    input_mb: float = 0.0
    output_mb: float = 1.0
    operations: float = 0.0
    seconds: float = 0.0

    def mem_mb(self, gpus: int = 0) -> int:
        """Return the memory of the host, a process for each GPU if there are several."""
        each = self.host_mb + (_CUDA_HOST_MB + self.input_mb if gpus else self.work_mb)
        return math.ceil(each * max(1, gpus))

    def gpu_mem_mb(self) -> int:
        """Return the memory of a GPU that computes."""
        return math.ceil(_CUDA_DEVICE_MB + self.work_mb)

    def disk_mb(self) -> int:
        """Return the room for what is read and written: a job without a shared file system has a copy of both."""
        return math.ceil(self.input_mb + self.output_mb)

    def duration(self, gpus: int = 0, threads: int = 1) -> float:
        """Return how long the job takes, in seconds."""
        rate = gpus * _GPU_OPERATIONS if gpus else max(1, threads) * _CPU_OPERATIONS
        return _START_SECONDS + self.seconds + self.operations / rate

    def runtime(self, gpus: int = 0, threads: int = 1) -> int:
        """Return a limit on its time, in minutes."""
        return _PATIENCE_MINUTES + math.ceil(_PATIENCE * self.duration(gpus, threads) / 60)


def download(size_mb: float) -> Need:
    """A download: a stream to a file."""
    return Need(output_mb=size_mb, seconds=size_mb / _DOWNLOAD_MB_A_SECOND)


def dataset_rows(source_mb: float) -> Need:
    """Tables, texts or images of a source as rows of one file."""
    return Need(PROCESS_MB + 10 * source_mb, input_mb=source_mb, output_mb=source_mb, seconds=1 + source_mb / 5)


def prepared_inputs(rows_mb: float) -> Need:
    """Rows as a model reads them; a tokenizer holds the tokens of all texts at once."""
    return Need(PROCESS_MB + 120 + 40 * rows_mb, input_mb=rows_mb, output_mb=4 * rows_mb, seconds=2 + 2 * rows_mb)


def extraction(size: ModelSize, source_mb: float, expansion: float) -> Need:
    """A checkpoint from what was downloaded or trained.

    Args:
        size: The model's.
        source_mb: Files that are read wholly.
        expansion: What they take in memory at their peak, times their size on disk.
    """
    return Need(
        PROCESS_MB + expansion * source_mb,
        input_mb=source_mb,
        output_mb=size.stored_mb + 5,
        seconds=1e-7 * size.weights,
    )


def listing() -> Need:
    """The list of matrices: the header of a file, and the model's modules without their weights."""
    return Need(seconds=1.0)


def measurement(size: ModelSize, steps: int = 1) -> Need:
    """Statistics of every matrix: a few copies of the largest one, and its singular values."""
    matrix = 4 * size.width**2 * _FLOAT
    return Need(
        PROCESS_MB + 50, 12 * matrix, size.stored_mb * steps, 1.0, 10.0 * steps * size.blocks * size.width, 0.2 * steps
    )


def pruning_plan(size: ModelSize) -> Need:
    """What all levels share: histograms of the scores of all prunable weights."""
    return Need(PROCESS_MB + PRUNING_MB, 16 * _matrix(size), size.stored_mb, 1.0, seconds=0.5 + 1e-7 * size.blocks)


def mask(size: ModelSize) -> Need:
    """A mask by scores: one bit a weight, and some copies of the largest matrix."""
    bits = size.blocks / 8e6
    return Need(PROCESS_MB, bits + 8 * _matrix(size), size.stored_mb, bits, seconds=0.5 + 2e-8 * size.blocks)


def _matrix(size: ModelSize) -> float:
    """Return what the largest prunable matrix takes in float32: four times the square of the width, as most have."""
    return 4 * size.width**2 * _FLOAT


def calibration(size: ModelSize, settings: Mapping[str, Any]) -> Need:
    """Statistics of the inputs of every layer, or masks block by block: what all sequences are between two blocks.

    Args:
        size: The model's.
        settings: ``sequences``, ``length`` and ``batch_size`` of the calibration.
    """
    tokens = settings["sequences"] * settings["length"]
    between = tokens * size.width * _FLOAT * (0 if settings["activations"] == "disk" else 4)
    heads = max(1, size.width // 64)
    attention = settings["batch_size"] * heads * settings["length"] ** 2 * _FLOAT * 2
    gram = 17 * size.width**2 * _FLOAT
    return Need(
        PROCESS_MB + TRAINING_MB, between + attention + 3 * gram, size.stored_mb, size.stored_mb / 4,
        operations=3 * 2.0 * tokens * size.blocks, seconds=2 + size.depth * 0.5,
    )  # fmt: skip


def language_model(size: ModelSize, task: Mapping[str, Any], inputs_mb: float | None) -> Need:
    """Perplexity or masked tokens: the weights, those that a mask brings, and the logits of a batch, thrice.

    Args:
        size: The model's.
        task: ``window``, ``windows`` and ``batch_size``.
        inputs_mb: The prepared inputs, four bytes a token; None before they are there.
    """
    logits = task["batch_size"] * task["window"] * size.vocabulary * _FLOAT
    if inputs_mb is not None:
        tokens = inputs_mb * 1e6 / 4
    else:
        tokens = task["windows"] * task["window"] if task["windows"] else _USUAL_TOKENS
    return _forward(size, tokens, 3 * logits, PROCESS_MB)


def benchmark(size: ModelSize, task: Mapping[str, Any]) -> Need:
    """Multiple choice by lm-eval, which imports much besides.

    Args:
        size: The model's.
        task: ``lm_eval_task``, ``limit``, ``shots``, ``batch_size`` and ``max_length``, by which memory goes: a
            thousand tokens where it is absent.
    """
    length = task["max_length"] or 1024
    logits = task["batch_size"] * length * size.vocabulary * _FLOAT
    name = task["lm_eval_task"]
    usual = _ITEMS["mmlu"] / 57 if name.startswith("mmlu_") else _ITEMS.get(name, _USUAL_ITEMS)
    tokens = min(task["limit"] or math.inf, usual) * _ITEM_TOKENS * (1 + (task["shots"] or 0))
    need = _forward(size, tokens, 2 * logits, PROCESS_MB + 400)
    return replace(need, seconds=need.seconds + 5)


def representation(size: ModelSize, task: Mapping[str, Any], rows_mb: float | None) -> Need:
    """A frozen encoder: the features of all images in double precision, and their classifier's copies."""
    rows = min(task["train_examples"], _rows_of(rows_mb))
    features = 4 * rows * size.width * 2 * _FLOAT
    batch = task["batch_size"] * _IMAGE_TOKENS * size.width * 16 * _FLOAT
    return _forward(size, rows * float(_IMAGE_TOKENS), batch, PROCESS_MB + TRAINING_MB + features)


def _forward(size: ModelSize, tokens: float, batch_mb: float, host_mb: float) -> Need:
    weights = 1.5 * size.stored_mb
    return Need(
        host_mb, weights + batch_mb, size.stored_mb + size.blocks / 8e6, 1.0, 2.0 * tokens * size.weights,
        1 + size.stored_mb / 500,
    )  # fmt: skip


def _rows_of(rows_mb: float | None) -> int:
    """Return how many images a file holds, of 10 kB each; a usual number where there is no file yet."""
    return 60_000 if rows_mb is None else max(1000, round(rows_mb * 100))


def fine_tuning(size: ModelSize, task: Mapping[str, Any], inputs_mb: float | None) -> Need:
    """Training under a mask: weights, gradients, AdamW's two moments, and what the backward pass reads of a batch.

    Args:
        size: The model's.
        task: ``batch_size``, ``micro_batch``, ``max_length``, ``train_examples``, ``epochs`` and ``head``.
        inputs_mb: The prepared inputs, four bytes a token or 768 a patch; None before they are there.
    """
    images = task["head"] == "image_classification"
    length = _IMAGE_TOKENS if images else task["max_length"]
    there = _USUAL_ROWS * length / 2 if inputs_mb is None else inputs_mb * 1e6 / (768 if images else 4)
    tokens = task["epochs"] * min(task["train_examples"] * length, there)
    return training(size, task["micro_batch"] or task["batch_size"], length, tokens, task["batch_size"])


def training(size: ModelSize, rows: int, length: int, tokens: float, batch: int) -> Need:
    """A training with AdamW in float32.

    A block keeps 34 numbers of each token's width, and five of each pair of tokens and head, for its backward pass
    (Korthikanti et al., arXiv 2205.05198, equation 1, in bytes of half precision; here two numbers are kept as floats).

    Args:
        size: The model's.
        rows: Of a forward pass.
        length: Tokens of a row.
        tokens: That are trained on, every repetition counted.
        batch: Rows of a step.
    """
    states = 4 * size.weights * _FLOAT
    heads = max(1, size.width // 64)
    kept = rows * length * size.depth * (17 * size.width + 2.5 * heads * length) * _FLOAT
    steps = tokens / (batch * length)
    return Need(
        PROCESS_MB + TRAINING_MB, states + kept, size.stored_mb + size.blocks / 8e6, 1.0,
        6.0 * tokens * size.weights, 1 + 0.01 * steps,
    )  # fmt: skip


def pretraining(size: ModelSize, recipe: Mapping[str, Any], corpus_mb: float | None, kept: int) -> Need:
    """A training from scratch, and the tokens of its whole corpus.

    Args:
        size: The model's.
        recipe: The recipe.
        corpus_mb: The corpus, compressed; None before it is there.
        kept: Steps whose weights are written.
    """
    texts = "tokenizer" in recipe
    sizes = recipe["architecture"]
    length = recipe["sequence_length"] if texts else 1 + (sizes["image_size"] // sizes["patch_size"]) ** 2
    logits = recipe["batch_size"] * length * size.vocabulary * 3 * _FLOAT
    tokens = float(recipe["steps"] * recipe["batch_size"] * length)
    need = training(size, recipe["batch_size"], length, tokens, recipe["batch_size"])
    # Words, their pieces and offsets of every text are there at once; images are kept as bytes.
    corpus = (400 if texts else 100) * (corpus_mb or 0.0)
    return Need(
        need.host_mb + corpus, need.work_mb + logits, corpus_mb or 0.0, size.stored_mb * kept, need.operations,
        need.seconds + 0.01 * recipe["steps"],
    )  # fmt: skip


def bookkeeping(files: int = 0) -> Need:
    """A job of tables, plots or words: nothing that depends on a model's size."""
    return Need(2 * PROCESS_MB, seconds=2 + 0.02 * files)
