"""Findings: the verdicts on the claims of a study; one without claims has none."""


rule judge_findings:
    input:
        unpack(claimed_tables),
        evaluations="results/studies/{study}/tables/evaluations.parquet",
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
        examples="results/evaluations",
        claims=lambda wildcards: canonical(study.claims),
        last=canonical(last_checkpoints(study)),
        scale=study.config["scale"],
        drawn=canonical(study.drawn()),
        knees=canonical(study.config["knees"]),
        positive=lambda wildcards: canonical(
            {name: study.tasks[name].get("positive") for name in study.used_tasks()}
        ),
    message:
        "Judging the findings of {wildcards.study}"
    script:
        "../scripts/judge_findings.py"
