"""The library of the essential-sparsity workflow: every stage as plain functions, none of which knows Snakemake."""
