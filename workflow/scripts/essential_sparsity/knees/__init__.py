"""Knees: from evaluations to the essential sparsity of a curve, with intervals.

In: the table of evaluations, and their examples. Out: the tables knees, curves, differences, levels.

Doors: curves (what names one), rules (by name), readings (what a rule returns), tolerance, analysis (to the tables),
samples, intervals, placing (the search), tables.
Inside: kneedle, segments, curvature, bayes (a rule each), resampling, differences.

To add a rule: a function as `readings.ReadMany` says and a line of `rules.RULES`; docs/knees.md compares them.
"""
