"""Checkpoints: pre-training, extraction to safetensors, the list of matrices, and statistics of the weights.

Needs: results/sources. Makes: results/pretraining, results/checkpoints, results/matrices, results/weights.
"""


def checkpoint_inputs(folder):
    """Return what a checkpoint consists of, as inputs of a rule that loads it."""
    return {
        "weights": f"{folder}/model.safetensors",
        "companions": f"{folder}/companions",
    }


def last_checkpoint(model):
    """Return the folder of a model's last checkpoint that exists."""
    names = study.checkpoints_of(model)
    if model in study.trajectories():
        lost = missing_steps(model)
        names = [name for name in names if (model, name) not in lost]
    return f"results/checkpoints/{model}/{names[-1]}"


rule pretrain_model:
    input:
        corpus=lambda wildcards: f"results/datasets/{study.recipe(wildcards.model).corpus}.parquet",
    output:
        index="results/pretraining/{model}/index.json",
        loss="results/pretraining/{model}/loss.parquet",
        files=directory("results/pretraining/{model}/files"),
        cost="results/costs/pretraining/{model}.json",
    log:
        "results/logs/pretrain_model/{model}.log",
    # The longest chain of jobs starts here: run it first, beside whatever else can run.
    priority: 100
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("pretrain_model", lambda wildcards: study.recipe(wildcards.model)),
    params:
        code=code("pretrain_model.py"),
        recipe=lambda wildcards: canonical(plain(study.recipe(wildcards.model))),
        where=lambda wildcards: study.where("models", wildcards.model),
        # What a training has written so far: not an output, which Snakemake would remove when the job fails.
        states="results/states/pretraining/{model}",
    message:
        "Pre-training {wildcards.model}"
    script:
        "../scripts/pretrain_model.py"


rule extract_checkpoint:
    input:
        lambda wildcards: model_inputs(wildcards.model, wildcards.checkpoint),
    output:
        weights="results/checkpoints/{model}/{checkpoint}/model.safetensors",
        # Configuration, tokenizer or processor, and the code of a model that is trusted.
        companions=directory("results/checkpoints/{model}/{checkpoint}/companions"),
        provenance="results/checkpoints/{model}/{checkpoint}/provenance.json",
        cost="results/costs/checkpoints/{model}/{checkpoint}.json",
    log:
        "results/logs/extract_checkpoint/{model}/{checkpoint}.log",
    priority: 90
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(
            "extract_checkpoint",
            lambda wildcards: study.source(wildcards.model, wildcards.checkpoint),
        ),
    params:
        code=code("extract_checkpoint.py"),
        source=lambda wildcards: canonical(
            plain(study.source(wildcards.model, wildcards.checkpoint))
        ),
        licence=lambda wildcards: study.models[wildcards.model].licence,
        dtype=lambda wildcards: study.models[wildcards.model].dtype,
        trusted=lambda wildcards: study.models[wildcards.model].trust_remote_code,
        where=lambda wildcards: study.where("models", wildcards.model),
    message:
        "Extracting {wildcards.model}, checkpoint {wildcards.checkpoint}"
    script:
        "../scripts/extract_checkpoint.py"


rule list_matrices:
    # All checkpoints of a model have the same matrices: one of them is looked at.
    input:
        weights=lambda wildcards: f"{last_checkpoint(wildcards.model)}/model.safetensors",
        companions=lambda wildcards: f"{last_checkpoint(wildcards.model)}/companions",
    output:
        manifest="results/matrices/{model}.json",
        cost="results/costs/matrices/{model}.json",
    log:
        "results/logs/list_matrices/{model}.log",
    priority: 90
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("list_matrices"),
    params:
        code=code("list_matrices.py"),
        patterns=lambda wildcards: canonical(study.patterns(wildcards.model)),
        where=lambda wildcards: study.where("models", wildcards.model),
    message:
        "Listing the matrices of {wildcards.model}"
    script:
        "../scripts/list_matrices.py"


rule measure_weights:
    input:
        weights="results/checkpoints/{model}/{checkpoint}/model.safetensors",
        manifest="results/matrices/{model}.json",
    output:
        matrices="results/weights/{model}/{checkpoint}.parquet",
        pooled="results/weights/{model}/{checkpoint}.pooled.parquet",
        histograms="results/weights/{model}/{checkpoint}.histogram.parquet",
        cost="results/costs/weights/{model}/{checkpoint}.json",
    log:
        "results/logs/measure_weights/{model}/{checkpoint}.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("measure_weights"),
    params:
        code=code("measure_weights.py"),
        spectra=lambda wildcards: study.models[wildcards.model].spectra,
    message:
        "Measuring the weights of {wildcards.model}, checkpoint {wildcards.checkpoint}"
    script:
        "../scripts/measure_weights.py"


rule measure_pretraining:
    # All steps at once, as they were stored: starting a job for each would take longer than the work.
    input:
        index="results/pretraining/{model}/index.json",
        files="results/pretraining/{model}/files",
        manifest="results/matrices/{model}.json",
    output:
        matrices="results/weights/{model}.parquet",
        pooled="results/weights/{model}.pooled.parquet",
        histograms="results/weights/{model}.histogram.parquet",
        cost="results/costs/weights/{model}.json",
    log:
        "results/logs/measure_pretraining/{model}.log",
    wildcard_constraints:
        model=one_of(study.pretrained()),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("measure_pretraining"),
    params:
        code=code("measure_pretraining.py"),
        dtype=lambda wildcards: study.models[wildcards.model].dtype,
        spectra=lambda wildcards: study.models[wildcards.model].spectra,
    message:
        "Measuring the weights of {wildcards.model} over its pre-training"
    script:
        "../scripts/measure_pretraining.py"
