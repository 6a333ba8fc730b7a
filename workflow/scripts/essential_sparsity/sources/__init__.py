"""Sources: where bytes come from, pinned and checked before they are used.

In: the `source` of a registry entry. Out: files below `results/sources`, or local ones.

Doors: fetch (wheel, path, pretrain, hub), hub, checks.
Inside: hub_errors.

To add a source: a branch of `fetch`, its keys in the schemas of models and datasets, a rule in `sources.smk`.
"""
