"""Pruning: statistics of the inputs, what all levels of a method share, and a packed mask for each level."""


rule calibrate_model:
    input:
        weights="results/checkpoints/{model}/{checkpoint}/model.safetensors",
        companions="results/checkpoints/{model}/{checkpoint}/companions",
        manifest="results/matrices/{model}.json",
        rows=lambda wildcards: f"results/datasets/{study.calibrations[wildcards.calibration]['dataset']}.parquet",
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
            study.calibration(wildcards.calibration)
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
        code=code("plan_pruning.py"),
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
        code=code("prune_weights.py"),
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
        code=code("prune_blocks.py"),
        method=lambda wildcards: method_entry(wildcards.method),
        calibration=lambda wildcards: canonical(calibration_of(wildcards.method)),
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
            lambda wildcards: study.tasks[
                study.method(wildcards.method).rounds["task"]
            ],
        ),
    params:
        code=code("prune_iteratively.py"),
        task=lambda wildcards: task_entry(study.method(wildcards.method).rounds["task"]),
        method=lambda wildcards: method_entry(wildcards.method, wildcards.sparsity),
        # States of a training that saves some: not an output, which Snakemake would remove when the job fails.
        states="results/states/rounds/{model}/{checkpoint}/{method}/{seed}/{sparsity}",
    message:
        "Training {wildcards.model}, {wildcards.checkpoint}, and pruning it to {wildcards.sparsity} by {wildcards.method}, seed {wildcards.seed}"
    script:
        "../scripts/prune_iteratively.py"


check_batches("prune_iteratively", [task for _, task in study.trained_in_rounds()])
