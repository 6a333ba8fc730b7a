"""Findings: the verdicts on the claims of a study, and their figures; a study without claims has neither."""


rule judge_findings:
    input:
        unpack(claimed_tables),
        evaluations="results/studies/{study}/tables/evaluations.parquet",
        examples=lambda wildcards: [
            examples_path(e) for e in claimed_evaluations(present())
        ],
        placed=first_rounds,
    output:
        table="results/studies/{study}/tables/findings.parquet",
        csv="results/studies/{study}/tables/findings.csv",
    log:
        "results/studies/{study}/logs/judge_findings.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("judge_findings"),
    params:
        code=code("judge_findings.py"),
        claims=lambda wildcards: canonical(study.claims),
        last=canonical(last_checkpoints(study)),
        scale=study.config["scale"],
        drawn=canonical(
            [name for name in used_methods() if study.mask_seed(name, 1) == 1]
        ),
        knees=canonical(study.config["knees"]),
        positive=lambda wildcards: canonical(
            {name: study.tasks[name].get("positive") for name in study.used_tasks()}
        ),
    message:
        "Judging the findings of {wildcards.study}"
    script:
        "../scripts/judge_findings.py"


rule plot_findings:
    input:
        findings="results/studies/{study}/tables/findings.parquet",
        curves="results/studies/{study}/tables/curves.parquet",
        knees="results/studies/{study}/tables/knees.parquet",
    output:
        report(
            "results/studies/{study}/plots/findings/{finding}.svg",
            caption="../report/findings.rst",
            category="Findings",
            labels={"finding": "{finding}"},
        ),
        "results/studies/{study}/plots/findings/{finding}.pdf",
        "results/studies/{study}/plots/findings/{finding}.png",
    log:
        "results/studies/{study}/logs/plot_findings/{finding}.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("plot_findings.py"),
        claims=lambda wildcards: canonical(
            [c for c in study.claims if c["finding"] == wildcards.finding]
        ),
        last=canonical(last_checkpoints(study)),
        methods=lambda wildcards: canonical(used_methods()),
        tasks=lambda wildcards: canonical(
            {name: study.tasks[name]["label"] for name in study.used_tasks()}
        ),
    message:
        "Plotting the finding {wildcards.finding}"
    script:
        "../scripts/plot_findings.py"
