"""Findings: the verdicts on the claims of a study; one without claims has none.

Needs: tables. Makes: the table of findings.
"""

from essential_sparsity.findings.claims import TABLES_OF
from essential_sparsity.study.claims import last_checkpoints


def claimed_tables(wildcards):
    """Return the tables besides evaluations that the study's claims are judged by."""
    needed = {TABLES_OF.get(claim.statistic) for claim in study.claims} - {None}
    folder = f"results/studies/{study.name}/tables"
    return {name: f"{folder}/{name}.parquet" for name in sorted(needed)}


def finding_table(wildcards):
    """Return the table of findings, as an input of a rule; nothing where the study makes no claim."""
    path = f"results/studies/{study.name}/tables/findings.parquet"
    return [path] if study.claims else []


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
        claims=lambda wildcards: canonical(list(map(plain, study.claims))),
        last=canonical(last_checkpoints(study)),
        scale=study.config["scale"],
        drawn=canonical(study.drawn()),
        knees=canonical(study.config["knees"]),
        positive=lambda wildcards: canonical(
            {name: study.tasks[name].positive for name in study.used_tasks()}
        ),
    message:
        "Judging the findings of {wildcards.study}"
    script:
        "../scripts/judge_findings.py"
