"""Sweeps whose levels are placed: each round of a curve is a checkpoint, and so is the table of all levels."""


checkpoint place_levels:
    # All seeds of a curve have the same levels; the mean over them decides.
    input:
        earlier=earlier_rounds,
        rows=known_rows,
    output:
        levels="results/studies/{study}/levels/{model}/{checkpoint}/{method}/{task}/{round}.json",
    log:
        "results/studies/{study}/logs/place_levels/{model}/{checkpoint}/{method}/{task}/{round}.log",
    # The next levels of a curve wait for it.
    priority: 70
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("place_levels.py"),
        settings=lambda wildcards: canonical(study.placing(sweep_of(wildcards))),
    message:
        "Placing levels of {wildcards.model}, {wildcards.checkpoint}, {wildcards.method} on {wildcards.task}, after round {wildcards.round}"
    script:
        "../scripts/place_levels.py"


checkpoint collect_levels:
    # A function for each curve: each asks for its own next round, so that all curves go on beside each other.
    input:
        *map(last_round, study.sweeps),
    output:
        table="results/studies/{study}/tables/levels.parquet",
    log:
        "results/studies/{study}/logs/collect_levels.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("collect_levels.py"),
    message:
        "Collecting the levels that were placed for {wildcards.study}"
    script:
        "../scripts/collect_levels.py"
