"""Tables: one Parquet file of each kind for a study, checked against its schema on write.

Needs: results of all stages. Makes: results/studies/<study>/tables.
"""

from essential_sparsity.planning.jobs import measured_places, other_costs


def measured_paths(study, kind):
    """Return the files of one kind of the study's measurements of weights."""
    return [
        f"results/weights/{place}{kind}.parquet" for place in measured_places(study)
    ]


rule collect_evaluations:
    input:
        # What is known before levels are placed is evaluated beside them.
        known=lambda wildcards: [evaluation_path(e) for e in existing().evaluations],
        placed=lambda wildcards: [
            evaluation_path(e)
            for e in sorted({*present().evaluations} - {*existing().evaluations})
        ],
        provenance=lambda wildcards: [
            f"results/checkpoints/{model}/{checkpoint}/provenance.json"
            for model, checkpoint in sorted(
                {(e.model, e.checkpoint) for e in existing().evaluations}
            )
        ],
    output:
        table="results/studies/{study}/tables/evaluations.parquet",
    log:
        "results/studies/{study}/logs/collect_evaluations.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("collect_evaluations.py"),
    message:
        "Collecting the evaluations of {wildcards.study}"
    script:
        "../scripts/collect_evaluations.py"


rule find_knees:
    input:
        evaluations="results/studies/{study}/tables/evaluations.parquet",
        placed=first_rounds,
    output:
        knees="results/studies/{study}/tables/knees.parquet",
        knees_csv="results/studies/{study}/tables/knees.csv",
        curves="results/studies/{study}/tables/curves.parquet",
        differences="results/studies/{study}/tables/differences.parquet",
        differences_csv="results/studies/{study}/tables/differences.csv",
    log:
        "results/studies/{study}/logs/find_knees.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("find_knees"),
    params:
        code=code("find_knees.py"),
        examples="results/evaluations",
        drawn=canonical(study.drawn()),
        knees=canonical(study.config["knees"]),
        positive=lambda wildcards: canonical(
            {name: study.tasks[name].positive for name in study.used_tasks()}
        ),
    message:
        "Finding the knees of {wildcards.study}"
    script:
        "../scripts/find_knees.py"


rule collect_layers:
    input:
        masks=lambda wildcards: [mask_path(*mask) for mask in present().masks()],
        manifests=lambda wildcards: [
            f"results/matrices/{model}.json" for model in present().pruned_models()
        ],
    output:
        table="results/studies/{study}/tables/layers.parquet",
    log:
        "results/studies/{study}/logs/collect_layers.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("collect_layers.py"),
        masks=lambda wildcards: canonical(present().masks()),
        models=lambda wildcards: canonical(present().pruned_models()),
    message:
        "Collecting the sparsity of every matrix of {wildcards.study}"
    script:
        "../scripts/collect_layers.py"


rule compare_masks:
    # One job for all pairs: a pair of masks of a thousand million weights takes a second or two.
    input:
        first=lambda wildcards: [
            mask_path(*pair.masks[0]) for pair in present().mask_pairs()
        ],
        second=lambda wildcards: [
            mask_path(*pair.masks[1]) for pair in present().mask_pairs()
        ],
    output:
        table="results/studies/{study}/tables/similarities.parquet",
    log:
        "results/studies/{study}/logs/compare_masks.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("compare_masks.py"),
        pairs=lambda wildcards: canonical(
            [pair.axes for pair in present().mask_pairs()]
        ),
    message:
        "Comparing the masks of {wildcards.study}"
    script:
        "../scripts/compare_masks.py"


rule collect_weights:
    input:
        matrices=lambda wildcards: measured_paths(existing(), ""),
        pooled=lambda wildcards: measured_paths(existing(), ".pooled"),
        histograms=lambda wildcards: measured_paths(existing(), ".histogram"),
    output:
        matrices="results/studies/{study}/tables/weights.parquet",
        pooled="results/studies/{study}/tables/trajectories.parquet",
        histograms="results/studies/{study}/tables/histograms.parquet",
    log:
        "results/studies/{study}/logs/collect_weights.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("collect_weights.py"),
        checkpoints=lambda wildcards: canonical(existing().weights),
    message:
        "Collecting the statistics of the weights of {wildcards.study}"
    script:
        "../scripts/collect_weights.py"


rule collect_losses:
    input:
        lambda wildcards: [
            f"results/pretraining/{model}/loss.parquet"
            for model in study.pretrained_models()
        ],
    output:
        table="results/studies/{study}/tables/losses.parquet",
    log:
        "results/studies/{study}/logs/collect_losses.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("collect_losses.py"),
    message:
        "Collecting the losses of pre-training of {wildcards.study}"
    script:
        "../scripts/collect_losses.py"


rule find_changes:
    input:
        weights="results/studies/{study}/tables/weights.parquet",
        trajectories="results/studies/{study}/tables/trajectories.parquet",
    output:
        table="results/studies/{study}/tables/changes.parquet",
    log:
        "results/studies/{study}/logs/find_changes.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("find_changes"),
    params:
        code=code("find_changes.py"),
    message:
        "Finding the change points of {wildcards.study}"
    script:
        "../scripts/find_changes.py"


rule collect_costs:
    input:
        evaluations="results/studies/{study}/tables/evaluations.parquet",
        others=lambda wildcards: other_costs(present()),
    output:
        table="results/studies/{study}/tables/costs.parquet",
    log:
        "results/studies/{study}/logs/collect_costs.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("collect_costs.py"),
    message:
        "Collecting the costs of {wildcards.study}"
    script:
        "../scripts/collect_costs.py"
