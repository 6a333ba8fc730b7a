"""The library of the essential-sparsity workflow: every stage as plain functions, none of which knows Snakemake."""

import gc

import __main__

# In a job, whose script has this name before it imports anything, no garbage is looked for while modules are loaded:
# they make hundreds of thousands of objects, and none of them is garbage. `run_job` turns collection on again.
if hasattr(__main__, "snakemake"):
    gc.disable()
