"""Plots, the report and the summary that a run ends with."""


rule plot_curves:
    input:
        evaluations="results/studies/{study}/tables/evaluations.parquet",
        knees="results/studies/{study}/tables/knees.parquet",
        levels="results/studies/{study}/tables/curves.parquet",
    output:
        report(
            "results/studies/{study}/plots/curves/{model}/{task}.svg",
            caption="../report/curves.rst",
            category="Curves",
            labels={"model": "{model}", "task": "{task}"},
        ),
        "results/studies/{study}/plots/curves/{model}/{task}.pdf",
        "results/studies/{study}/plots/curves/{model}/{task}.png",
    log:
        "results/studies/{study}/logs/plot_curves/{model}/{task}.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("plot_curves.py"),
        methods=lambda wildcards: canonical(used_methods()),
        label=lambda wildcards: study.tasks[wildcards.task]["label"],
        knees=canonical(study.config["knees"]),
    message:
        "Plotting the curves of {wildcards.model} on {wildcards.task}"
    script:
        "../scripts/plot_curves.py"


rule plot_layers:
    input:
        layers="results/studies/{study}/tables/layers.parquet",
        knees="results/studies/{study}/tables/knees.parquet",
    output:
        report(
            "results/studies/{study}/plots/layers/{model}/{task}.svg",
            caption="../report/layers.rst",
            category="Matrices",
            labels={"model": "{model}", "task": "{task}"},
        ),
        "results/studies/{study}/plots/layers/{model}/{task}.pdf",
        "results/studies/{study}/plots/layers/{model}/{task}.png",
    log:
        "results/studies/{study}/logs/plot_layers/{model}/{task}.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("plot_layers.py"),
        methods=lambda wildcards: canonical(used_methods()),
        label=lambda wildcards: study.tasks[wildcards.task]["label"],
        rule_name=study.config["knees"]["rules"][0],
    message:
        "Plotting the sparsity of the matrices of {wildcards.model} at its knees on {wildcards.task}"
    script:
        "../scripts/plot_layers.py"


rule plot_weights:
    input:
        weights="results/studies/{study}/tables/weights.parquet",
    output:
        report(
            "results/studies/{study}/plots/weights/{model}.svg",
            caption="../report/weights.rst",
            category="Weights",
            labels={"model": "{model}"},
        ),
        "results/studies/{study}/plots/weights/{model}.pdf",
        "results/studies/{study}/plots/weights/{model}.png",
    log:
        "results/studies/{study}/logs/plot_weights/{model}.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("plot_weights.py"),
    message:
        "Plotting the statistics of the weights of {wildcards.model}"
    script:
        "../scripts/plot_weights.py"


rule plot_similarities:
    input:
        similarities="results/studies/{study}/tables/similarities.parquet",
    output:
        report(
            "results/studies/{study}/plots/similarities/{model}.svg",
            caption="../report/similarities.rst",
            category="Masks",
            labels={"model": "{model}"},
        ),
        "results/studies/{study}/plots/similarities/{model}.pdf",
        "results/studies/{study}/plots/similarities/{model}.png",
    log:
        "results/studies/{study}/logs/plot_similarities/{model}.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("plot_similarities.py"),
        methods=lambda wildcards: canonical(used_methods()),
    message:
        "Plotting the similarity of the masks of {wildcards.model}"
    script:
        "../scripts/plot_similarities.py"


rule plot_losses:
    input:
        losses="results/studies/{study}/tables/losses.parquet",
    output:
        report(
            "results/studies/{study}/plots/losses/{model}.svg",
            caption="../report/losses.rst",
            category="Pre-training",
            labels={"model": "{model}"},
        ),
        "results/studies/{study}/plots/losses/{model}.pdf",
        "results/studies/{study}/plots/losses/{model}.png",
    log:
        "results/studies/{study}/logs/plot_losses/{model}.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("plot_losses.py"),
        objective=lambda wildcards: study.recipe(wildcards.model)["objective"],
    message:
        "Plotting the loss of the pre-training of {wildcards.model}"
    script:
        "../scripts/plot_losses.py"


rule plot_emergence:
    input:
        weights="results/studies/{study}/tables/weights.parquet",
        trajectories="results/studies/{study}/tables/trajectories.parquet",
        histograms="results/studies/{study}/tables/histograms.parquet",
        changes="results/studies/{study}/tables/changes.parquet",
    output:
        report(
            "results/studies/{study}/plots/emergence/{model}.svg",
            caption="../report/emergence.rst",
            category="Emergence",
            labels={"model": "{model}"},
        ),
        "results/studies/{study}/plots/emergence/{model}.pdf",
        "results/studies/{study}/plots/emergence/{model}.png",
    log:
        "results/studies/{study}/logs/plot_emergence/{model}.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("plot_emergence.py"),
    message:
        "Plotting how sparsity emerges in {wildcards.model}"
    script:
        "../scripts/plot_emergence.py"


rule plot_ages:
    input:
        evaluations="results/studies/{study}/tables/evaluations.parquet",
        knees="results/studies/{study}/tables/knees.parquet",
    output:
        report(
            "results/studies/{study}/plots/ages/{model}/{task}.svg",
            caption="../report/ages.rst",
            category="Ages",
            labels={"model": "{model}", "task": "{task}"},
        ),
        "results/studies/{study}/plots/ages/{model}/{task}.pdf",
        "results/studies/{study}/plots/ages/{model}/{task}.png",
    log:
        "results/studies/{study}/logs/plot_ages/{model}/{task}.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("plot_ages.py"),
        methods=lambda wildcards: canonical(used_methods()),
        label=lambda wildcards: study.tasks[wildcards.task]["label"],
        rule_name=study.config["knees"]["rules"][0],
    message:
        "Plotting the knees of {wildcards.model} on {wildcards.task} over its pre-training"
    script:
        "../scripts/plot_ages.py"


rule write_report:
    input:
        evaluations="results/studies/{study}/tables/evaluations.parquet",
        knees="results/studies/{study}/tables/knees.parquet",
        levels="results/studies/{study}/tables/curves.parquet",
        differences="results/studies/{study}/tables/differences.parquet",
        weights="results/studies/{study}/tables/weights.parquet",
        changes="results/studies/{study}/tables/changes.parquet",
        layers="results/studies/{study}/tables/layers.parquet",
        costs="results/studies/{study}/tables/costs.parquet",
        placed=first_rounds,
        verdicts=finding_table,
        curves=lambda wildcards: plot_paths(existing(), "curves", "svg"),
        matrices=lambda wildcards: plot_paths(existing(), "layers", "svg"),
        statistics=lambda wildcards: plot_paths(existing(), "weights", "svg"),
        findings=lambda wildcards: plot_paths(existing(), "findings", "svg"),
        similarities=lambda wildcards: plot_paths(existing(), "similarities", "svg"),
        losses=lambda wildcards: plot_paths(existing(), "losses", "svg"),
        emergence=lambda wildcards: plot_paths(existing(), "emergence", "svg"),
        ages=lambda wildcards: plot_paths(existing(), "ages", "svg"),
        provenance=lambda wildcards: [
            f"results/checkpoints/{model}/{checkpoint}/provenance.json"
            for model, checkpoint in existing().used_checkpoints()
        ],
        steps=[
            f"results/sources/hub/models/{model}/steps.json"
            for model in study.used_trajectories()
        ],
    output:
        page=report(
            "results/studies/{study}/report.html",
            caption="../report/report.rst",
            category="Report",
        ),
        summary="results/studies/{study}/summary.txt",
        environment="results/studies/{study}/environment.txt",
    log:
        "results/studies/{study}/logs/write_report.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("write_report.py"),
        template=[sha256_of(part) for part in TEMPLATE_PARTS],
        title=lambda wildcards: study.config["title"],
        knees=canonical(study.config["knees"]),
        methods=lambda wildcards: canonical(used_methods()),
        tasks=lambda wildcards: canonical(
            {name: study.tasks[name] for name in study.used_tasks()}
        ),
    message:
        "Writing the report of {wildcards.study}"
    script:
        "../scripts/write_report.py"
