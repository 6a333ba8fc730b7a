"""Sources: where bytes come from, pinned and checked before they are used.

In: the `source` of a registry entry. Out: files below `results/sources`, or local ones.

Doors: kinds (what a source is), fetch (wheel, path, pretrain, hub), hub, checks.
Inside: hub_errors.

To add a source: a class in `kinds`, a branch of `fetch` and of `describe`, its keys in the schema of sources, a rule in
`sources.smk`.
"""
