"""What a fine-tuning job of a model with 23 million weights costs before its first step, from the process's start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from harness import ROOT, report, timed

MODEL, TASK = "all-minilm-l6-v2", "plot-or-review"
REPEATS = 5

# What the job's script does, up to the first batch; the imports are the script's own, and Snakemake names its object
# before them.
START = """
import sys
from types import SimpleNamespace
snakemake = SimpleNamespace(log=[sys.argv[5]], rule="benchmark", output={}, resources={})
sys.path[:0] = ["workflow/scripts", "benchmarks"]
import json
import shutil
from pathlib import Path
import numpy as np
import pandas as pd
from harness import checkpoint_inputs
from essential_sparsity.checkpoints.files import checkpoint_folder
from essential_sparsity.run.devices import choose_device
from essential_sparsity.evaluation.evaluate import evaluate_to_files
from essential_sparsity.files import sha256_of
from essential_sparsity.training.fit import HEADS
from essential_sparsity.training.loop import Training
from essential_sparsity.evaluation.finetuned import evaluate_finetuned
from essential_sparsity.run.job import run_job
from essential_sparsity.checkpoints.manifest import read_manifest
from essential_sparsity.pruning.masks import read_pruning
from essential_sparsity.data.prepared import Prepared
from essential_sparsity.training.kinds import TASK_KINDS
def main(snakemake):
    choose_device(0, 1)
    folder, manifest, mask, inputs = map(Path, sys.argv[1:5])
    data = Prepared(inputs)
    kind = TASK_KINDS[data.about["kind"]]
    with checkpoint_folder(checkpoint_inputs(folder)) as checkpoint:
        model, encoder = HEADS["sequence_classification"](checkpoint, kind.model_options(data.about), "benchmark")
    read_pruning(mask, read_manifest(manifest)).apply(encoder)
    kind.batch(data, np.arange(32))
run_job(main, snakemake)
"""


def main() -> None:
    """Print the JSON line: the fastest of a few starts, with all files in the system's cache."""
    results = ROOT / "results"
    mask = results / f"masks/{MODEL}/final/magnitude-global/0/0.500.safetensors"
    files = [results / f"checkpoints/{MODEL}/final", results / f"matrices/{MODEL}.json", mask,
             results / f"inputs/{MODEL}/{TASK}.arrow"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "start.py"
        script.write_text(START, encoding="utf-8")
        command = [sys.executable, str(script), *map(str, files), str(Path(folder) / "log")]
        starts = [
            timed(lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True)) for _ in range(REPEATS)
        ]
    torch = [timed(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True)) for _ in range(REPEATS)]
    report("job-start", ours_seconds=min(starts), limit_seconds=6.0, importing_torch_seconds=min(torch))


if __name__ == "__main__":
    main()
