"""Tables: one Parquet file of each kind for a study, checked against its schema on write."""


rule collect_evaluations:
    input:
        [evaluation_path(e) for e in study.evaluations],
    output:
        table="results/studies/{study}/tables/evaluations.parquet",
    log:
        "results/studies/{study}/logs/collect_evaluations.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        code=code("collect_evaluations.py"),
    message:
        "Collecting the evaluations of {wildcards.study}"
    script:
        "../scripts/collect_evaluations.py"


rule find_knees:
    input:
        evaluations="results/studies/{study}/tables/evaluations.parquet",
    output:
        table="results/studies/{study}/tables/knees.parquet",
        csv="results/studies/{study}/tables/knees.csv",
    log:
        "results/studies/{study}/logs/find_knees.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        code=code("find_knees.py"),
        knees=canonical(study.config["knees"]),
    message:
        "Finding the knees of {wildcards.study}"
    script:
        "../scripts/find_knees.py"


rule collect_layers:
    input:
        masks=[
            f"results/masks/{model}/{checkpoint}/{method}/{seed}/{sparsity}.safetensors"
            for model, checkpoint, method, seed, sparsity in study.masks()
        ],
        manifests=[f"results/matrices/{model}.json" for model in study.pruned_models()],
    output:
        table="results/studies/{study}/tables/layers.parquet",
    log:
        "results/studies/{study}/logs/collect_layers.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        code=code("collect_layers.py"),
        masks=canonical(study.masks()),
        models=canonical(study.pruned_models()),
    message:
        "Collecting the sparsity of every matrix of {wildcards.study}"
    script:
        "../scripts/collect_layers.py"


rule collect_weights:
    input:
        [
            f"results/weights/{model}/{checkpoint}.parquet"
            for model, checkpoint in study.weights
        ],
    output:
        table="results/studies/{study}/tables/weights.parquet",
    log:
        "results/studies/{study}/logs/collect_weights.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        code=code("collect_weights.py"),
    message:
        "Collecting the statistics of the weights of {wildcards.study}"
    script:
        "../scripts/collect_weights.py"


rule collect_costs:
    input:
        benchmark_paths(),
    output:
        table="results/studies/{study}/tables/costs.parquet",
    log:
        "results/studies/{study}/logs/collect_costs.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        code=code("collect_costs.py"),
    message:
        "Collecting the costs of {wildcards.study}"
    script:
        "../scripts/collect_costs.py"
