"""Plots, the report and the summary that a run ends with.

Needs: tables. Makes: plots, report.html and summary.txt below results/studies.
"""

TEMPLATE_PARTS = sorted((ROOT / "workflow" / "report").glob("*.*"))

for kind, figure in KINDS.items():
    labels = {axis: f"{{{axis}}}" for axis in figure.axes}
    place = os.path.join(*labels.values())

    rule:
        name:
            f"plot_{kind}"
        input:
            **{
                name: f"results/studies/{{study}}/tables/{table}.parquet"
                for name, table in figure.tables.items()
            },
        output:
            report(
                f"results/studies/{{study}}/plots/{kind}/{place}.svg",
                caption=f"../report/{kind}.rst",
                category=figure.title,
                labels=labels,
            ),
            f"results/studies/{{study}}/plots/{kind}/{place}.pdf",
            f"results/studies/{{study}}/plots/{kind}/{place}.png",
        log:
            f"results/studies/{{study}}/logs/plot_{kind}/{place}.log",
        conda:
            "../../envs/workflow.yaml"
        threads: 1
        resources:
            **needs(),
        params:
            code=code("plot.py"),
            settings=settings_of(kind),
        message:
            f"Plotting {figure.message}"
        script:
            "../scripts/plot.py"


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
        plots=lambda wildcards: plot_paths(existing()),
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
            {name: plain(study.tasks[name]) for name in study.used_tasks()}
        ),
    message:
        "Writing the report of {wildcards.study}"
    script:
        "../scripts/write_report.py"
