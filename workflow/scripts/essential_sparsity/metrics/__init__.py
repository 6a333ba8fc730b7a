"""Metrics: a number from the examples of an evaluation, and what chance is.

In: examples, a row each. Out: a value; features from which a thousand draws of it are computed.

Doors: registry, squad.
Inside: values, weighted.

To add a metric: a function in `values`, its features and weighted form, an entry of `registry.METRICS`, the schema of
tasks, an oracle in `tests/helpers/reference_metrics.py`.
"""
