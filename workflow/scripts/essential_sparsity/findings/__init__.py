"""Findings: verdicts on the claims that a study states before it runs.

In: claims, the curves with their draws, tables. Out: the table of findings.

Doors: claims (their words), evidence, verdicts (the statistics by name), tables.
Inside: knees, values, ranks, variance, stored (a statistic each), estimates.

To add a statistic: a function from a claim and the evidence to an estimate, a line of `verdicts`, the schema of
studies, and what it is taken of in `study.claims`.
"""
