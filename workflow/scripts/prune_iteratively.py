"""Run one round of iterative magnitude pruning: fine-tune under the last round's mask, prune, rewind."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from essential_sparsity.checkpoints.files import PROVENANCE, checkpoint_folder
from essential_sparsity.checkpoints.manifest import Matrix, read_manifest
from essential_sparsity.data.prepared import Prepared
from essential_sparsity.data.tasks import Finetuning
from essential_sparsity.evaluation.evaluate import check_mask_is_of
from essential_sparsity.methods.method import Method
from essential_sparsity.methods.rounds import Rounds
from essential_sparsity.pruning.masks import Pruning, no_pruning, read_header, read_pruning, writing_mask
from essential_sparsity.pruning.prune import check_counts, mask_header
from essential_sparsity.records import record
from essential_sparsity.run.devices import choose_device
from essential_sparsity.run.job import run_job
from essential_sparsity.training.loop import Training, state_key
from essential_sparsity.training.rounds import prune_round


def main(snakemake: Any) -> None:
    """Write the packed mask of a level; states of a training that was cut off are in ``params.states``."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    task = record(Finetuning, json.loads(snakemake.params.task))
    method = record(Method, json.loads(snakemake.params.method))
    rounds = method.rounds
    assert rounds is not None, "the rule is for methods with rounds"
    axes, inputs = dict(snakemake.wildcards.items()), dict(snakemake.input.items())
    manifest = read_manifest(Path(inputs["manifest"]))
    matrices, sparsity = [m for m in manifest if m.pruned], float(axes["sparsity"])
    pruning = pruning_before(inputs, axes, method, rounds, manifest)
    states = Path(snakemake.params.states)
    read = [Path(inputs["companions"]).with_name(PROVENANCE)]
    read += [Path(inputs[name]) for name in ("inputs", "mask") if name in inputs]
    key = state_key(task, [snakemake.params.code, snakemake.params.task, axes["seed"]], read)
    training = Training(task, int(axes["seed"]), device, states, key, max(1, snakemake.resources.gpu))
    where = ", ".join([*(f"{name} {value}" for name, value in axes.items()), f"task {rounds.task}"])
    header = mask_header(axes, method, matrices, sparsity, {})
    data = Prepared(Path(inputs["inputs"]))
    with checkpoint_folder(inputs) as checkpoint, writing_mask(Path(snakemake.output.mask), header) as writer:
        for name, packed in prune_round(checkpoint, pruning, data, training, sparsity, where):
            writer.put(name, packed)
        check_counts(header, method, matrices)
    logging.info("removed %d of %d weights", sum(header.removed.values()), sum(m.size for m in matrices))
    shutil.rmtree(states, ignore_errors=True)


def pruning_before(
    inputs: dict[str, str], axes: dict[str, str], method: Method, rounds: Rounds, manifest: list[Matrix]
) -> Pruning:
    """Return what the round before removes; nothing before the first."""
    if "mask" not in inputs:
        return no_pruning(manifest)
    mask, level = Path(inputs["mask"]), rounds.levels[-2]
    check_mask_is_of(read_header(mask), {**axes, "sparsity": f"{level:.3f}"}, method.up_to(level).to_dict(), mask)
    return read_pruning(mask, manifest)


if __name__ == "__main__":
    run_job(main, snakemake)
