"""Checkpoints: pre-training, extraction to safetensors, the list of matrices, and statistics of the weights."""


rule pretrain_model:
    input:
        corpus=lambda wildcards: f"results/datasets/{study.recipe(wildcards.model)['corpus']}.parquet",
    output:
        index="results/pretraining/{model}/index.json",
        loss="results/pretraining/{model}/loss.parquet",
        beside=side_files("results/pretraining/{model}"),
        cost="results/costs/pretrain_model/{model}.json",
    log:
        "results/logs/pretrain_model/{model}.log",
    # The longest chain of jobs starts here: run it first, beside whatever else can run.
    priority: 100
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=memory("pretrain_model"),
        gpu_mem_mb=gpu_memory("pretrain_model"),
        disk_mb=disk("pretrain_model"),
        runtime=time_limit("pretrain_model"),
    params:
        code=code("pretrain_model.py"),
        recipe=lambda wildcards: canonical(study.recipe(wildcards.model)),
        states="results/states/pretraining/{model}",
        where=lambda wildcards: study.where("models", wildcards.model),
    message:
        "Pre-training {wildcards.model}"
    script:
        "../scripts/pretrain_model.py"


rule extract_checkpoint:
    input:
        lambda wildcards: source_inputs("models", wildcards.model, wildcards.checkpoint),
    output:
        weights="results/checkpoints/{model}/{checkpoint}/model.safetensors",
        config="results/checkpoints/{model}/{checkpoint}/config.json",
        provenance="results/checkpoints/{model}/{checkpoint}/provenance.json",
        beside=side_files("results/checkpoints/{model}/{checkpoint}"),
        cost="results/costs/extract_checkpoint/{model}/{checkpoint}.json",
    log:
        "results/logs/extract_checkpoint/{model}/{checkpoint}.log",
    priority: 90
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=memory("extract_checkpoint"),
        disk_mb=disk("extract_checkpoint"),
        runtime=time_limit("extract_checkpoint"),
    params:
        code=code("extract_checkpoint.py"),
        model=lambda wildcards: canonical(
            study.model(wildcards.model, wildcards.checkpoint)
        ),
        where=lambda wildcards: study.where("models", wildcards.model),
    message:
        "Extracting {wildcards.model}, checkpoint {wildcards.checkpoint}"
    script:
        "../scripts/extract_checkpoint.py"


rule list_matrices:
    # All checkpoints of a model have the same matrices: one of them is looked at.
    input:
        weights=lambda wildcards: f"{last_checkpoint(wildcards.model)}/model.safetensors",
        config=lambda wildcards: f"{last_checkpoint(wildcards.model)}/config.json",
        beside=lambda wildcards: checkpoint_files(last_checkpoint(wildcards.model)),
    output:
        manifest="results/matrices/{model}.json",
        cost="results/costs/list_matrices/{model}.json",
    log:
        "results/logs/list_matrices/{model}.log",
    priority: 90
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=memory("list_matrices"),
        disk_mb=disk("list_matrices"),
        runtime=time_limit("list_matrices"),
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
        cost="results/costs/measure_weights/{model}/{checkpoint}.json",
    log:
        "results/logs/measure_weights/{model}/{checkpoint}.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=memory("measure_weights"),
        gpu_mem_mb=gpu_memory("measure_weights"),
        disk_mb=disk("measure_weights"),
        runtime=time_limit("measure_weights"),
    params:
        code=code("measure_weights.py"),
        spectra=lambda wildcards: study.models[wildcards.model]["spectra"],
    message:
        "Measuring the weights of {wildcards.model}, checkpoint {wildcards.checkpoint}"
    script:
        "../scripts/measure_weights.py"


rule measure_pretraining:
    # All steps at once, as they were stored: starting a job for each would take longer than the work.
    input:
        index="results/pretraining/{model}/index.json",
        beside=side_files("results/pretraining/{model}"),
        manifest="results/matrices/{model}.json",
    output:
        matrices="results/weights/{model}.parquet",
        pooled="results/weights/{model}.pooled.parquet",
        histograms="results/weights/{model}.histogram.parquet",
        cost="results/costs/measure_pretraining/{model}.json",
    log:
        "results/logs/measure_pretraining/{model}.log",
    wildcard_constraints:
        model=one_of(study.pretrained()),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=memory("measure_pretraining"),
        gpu_mem_mb=gpu_memory("measure_pretraining"),
        disk_mb=disk("measure_pretraining"),
        runtime=time_limit("measure_pretraining"),
    params:
        code=code("measure_pretraining.py"),
        dtype=lambda wildcards: study.models[wildcards.model]["dtype"],
        spectra=lambda wildcards: study.models[wildcards.model]["spectra"],
    message:
        "Measuring the weights of {wildcards.model} over its pre-training"
    script:
        "../scripts/measure_pretraining.py"
