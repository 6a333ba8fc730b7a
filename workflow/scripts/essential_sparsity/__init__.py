"""The library of the essential-sparsity workflow: every stage as plain functions, none of which knows Snakemake.

A room imports only rooms below it, and of another room its doors only. From the ground: the hall (`errors`, `files`,
`progress`, `records`, `tables`, `inference`, which everybody uses), `run`, `checkpoints`, `sources`, `data`, `metrics`,
`methods`, `pruning`, `training`, `evaluation`, `pretraining`, `knees`, `emergence`, `findings`, `report`, `study`,
`planning`. Each says at its door what comes in, what goes out and how to add a thing; import-linter holds the walls
(`make lint`).
"""
