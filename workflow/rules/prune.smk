"""Pruning: statistics of the inputs, what all levels of a method share, and a packed mask for each level.

Needs: results/checkpoints, results/matrices, results/datasets. Makes: results/statistics, results/plans, results/masks.
"""


def methods_with(rounds=False, by_block=False):
    """Return the pattern of the methods that prune in rounds or in one shot, block by block or by scores alone."""
    slots = {name: study.method(name) for name in study.methods}
    kinds = {name: (bool(s.rounds), s.by_block) for name, s in slots.items()}
    return one_of(name for name, kind in kinds.items() if kind == (rounds, by_block))


def mask_path(model, checkpoint, method, seed, sparsity):
    """Return the file of a mask."""
    return f"results/masks/{model}/{checkpoint}/{method}/{seed}/{sparsity}.safetensors"


def statistics_path(model, checkpoint, method):
    """Return the file of the dense model's statistics that a method needs; None if it needs none."""
    slots = study.method(method)
    if slots.dense_needs == "nothing":
        return None
    return f"results/statistics/{model}/{checkpoint}/{slots.calibration}/{slots.dense_needs}.safetensors"


def pruning_inputs(wildcards):
    """Return what a plan or a mask is made of: the checkpoint, and what its method needs besides."""
    slots = study.method(wildcards.method)
    folder = f"results/checkpoints/{wildcards.model}/{wildcards.checkpoint}"
    statistics = statistics_path(
        wildcards.model, wildcards.checkpoint, wildcards.method
    )
    inputs = {
        "weights": f"{folder}/model.safetensors",
        "manifest": f"results/matrices/{wildcards.model}.json",
    }
    if statistics:
        inputs["statistics"] = statistics
    # A plan itself has no sparsity, and no text to read.
    if "sparsity" in wildcards.keys():
        if slots.planned:
            inputs["plan"] = (
                f"results/plans/{wildcards.model}/{wildcards.checkpoint}/{wildcards.method}/{wildcards.seed}.json"
            )
        if slots.by_block:
            inputs |= checkpoint_inputs(folder)
            inputs["rows"] = (
                f"results/datasets/{study.calibrations[slots.calibration].dataset}.parquet"
            )
    return inputs


def round_inputs(wildcards):
    """Return what a round of iterative pruning trains: the checkpoint under the mask of the round before, on its task."""
    folder = f"results/checkpoints/{wildcards.model}/{wildcards.checkpoint}"
    task = study.method(wildcards.method).rounds.task
    inputs = {
        **checkpoint_inputs(folder),
        "manifest": f"results/matrices/{wildcards.model}.json",
        "inputs": f"results/inputs/{wildcards.model}/{task}.arrow",
    }
    before = study.level_before(wildcards.method, wildcards.sparsity)
    if before:
        inputs["mask"] = mask_path(
            wildcards.model,
            wildcards.checkpoint,
            wildcards.method,
            wildcards.seed,
            before,
        )
    return inputs


rule calibrate_model:
    input:
        weights="results/checkpoints/{model}/{checkpoint}/model.safetensors",
        companions="results/checkpoints/{model}/{checkpoint}/companions",
        manifest="results/matrices/{model}.json",
        rows=lambda wildcards: f"results/datasets/{study.calibrations[wildcards.calibration].dataset}.parquet",
    output:
        statistics="results/statistics/{model}/{checkpoint}/{calibration}/{statistics}.safetensors",
        cost="results/costs/statistics/{model}/{checkpoint}/{calibration}/{statistics}.json",
    log:
        "results/logs/calibrate_model/{model}/{checkpoint}/{calibration}/{statistics}.log",
    priority: 80
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("calibrate_model", of_calibration),
    params:
        code=code("calibrate_model.py"),
        calibration=lambda wildcards: canonical(
            study.defining("calibrations", wildcards.calibration)
        ),
        where=lambda wildcards: study.where("calibrations", wildcards.calibration),
    message:
        "Calibrating {wildcards.model}, {wildcards.checkpoint}, on {wildcards.calibration} ({wildcards.statistics})"
    script:
        "../scripts/calibrate_model.py"


rule plan_pruning:
    # What does not depend on the level: adding a level makes its mask, and nothing else.
    input:
        unpack(pruning_inputs),
    output:
        plan="results/plans/{model}/{checkpoint}/{method}/{seed}.json",
        cost="results/costs/plans/{model}/{checkpoint}/{method}/{seed}.json",
    log:
        "results/logs/plan_pruning/{model}/{checkpoint}/{method}/{seed}.log",
    wildcard_constraints:
        method=one_of(study.methods),
    priority: 80
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("plan_pruning"),
    params:
        code=lambda wildcards: code("plan_pruning.py", wildcards.method),
        method=lambda wildcards: method_entry(wildcards.method),
    message:
        "Planning the pruning of {wildcards.model}, {wildcards.checkpoint}, by {wildcards.method}, seed {wildcards.seed}"
    script:
        "../scripts/plan_pruning.py"


rule prune_weights:
    input:
        unpack(pruning_inputs),
    output:
        mask="results/masks/{model}/{checkpoint}/{method}/{seed}/{sparsity}.safetensors",
        cost="results/costs/masks/{model}/{checkpoint}/{method}/{seed}/{sparsity}.json",
    log:
        "results/logs/prune_weights/{model}/{checkpoint}/{method}/{seed}/{sparsity}.log",
    wildcard_constraints:
        method=methods_with(),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("prune_weights"),
    params:
        code=lambda wildcards: code("prune_weights.py", wildcards.method),
        method=lambda wildcards: method_entry(wildcards.method),
    message:
        "Pruning {wildcards.model}, {wildcards.checkpoint}, to {wildcards.sparsity} by {wildcards.method}, seed {wildcards.seed}"
    script:
        "../scripts/prune_weights.py"


rule prune_blocks:
    # Block by block: the inputs of a block are those that the pruned blocks before it hand on.
    input:
        unpack(pruning_inputs),
    output:
        mask="results/masks/{model}/{checkpoint}/{method}/{seed}/{sparsity}.safetensors",
        cost="results/costs/masks/{model}/{checkpoint}/{method}/{seed}/{sparsity}.json",
    log:
        "results/logs/prune_blocks/{model}/{checkpoint}/{method}/{seed}/{sparsity}.log",
    wildcard_constraints:
        method=methods_with(by_block=True),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("prune_blocks", of_calibration),
    params:
        code=lambda wildcards: code("prune_blocks.py", wildcards.method),
        method=lambda wildcards: method_entry(wildcards.method),
        calibration=lambda wildcards: canonical(
            study.defining("calibrations", study.method(wildcards.method).calibration)
        ),
        where=lambda wildcards: study.where(
            "calibrations", study.method(wildcards.method).calibration
        ),
    message:
        "Pruning {wildcards.model}, {wildcards.checkpoint}, block by block to {wildcards.sparsity} by {wildcards.method}, seed {wildcards.seed}"
    script:
        "../scripts/prune_blocks.py"


rule prune_iteratively:
    # A round of a chain: the mask of the level before is an input, and the weights are the pre-trained ones.
    input:
        unpack(round_inputs),
    output:
        mask="results/masks/{model}/{checkpoint}/{method}/{seed}/{sparsity}.safetensors",
        cost="results/costs/masks/{model}/{checkpoint}/{method}/{seed}/{sparsity}.json",
    log:
        "results/logs/prune_iteratively/{model}/{checkpoint}/{method}/{seed}/{sparsity}.log",
    wildcard_constraints:
        method=methods_with(rounds=True),
    # All later rounds wait for it.
    priority: 80
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(
            "prune_iteratively",
            lambda wildcards: study.tasks[study.method(wildcards.method).rounds.task],
        ),
    params:
        code=lambda wildcards: code("prune_iteratively.py", wildcards.method),
        task=lambda wildcards: task_entry(study.method(wildcards.method).rounds.task),
        method=lambda wildcards: method_entry(wildcards.method, wildcards.sparsity),
        # States of a training that saves some: not an output, which Snakemake would remove when the job fails.
        states="results/states/rounds/{model}/{checkpoint}/{method}/{seed}/{sparsity}",
    message:
        "Training {wildcards.model}, {wildcards.checkpoint}, and pruning it to {wildcards.sparsity} by {wildcards.method}, seed {wildcards.seed}"
    script:
        "../scripts/prune_iteratively.py"


check_batches("prune_iteratively", [task for _, task in study.trained_in_rounds()])
