"""Run: what carries a job and computes nothing: its log, its errors, its GPUs, what it spends.

In: a script's `main` and Snakemake's object. Out: the same outputs, whatever machine ran it.

Doors: job (around every script), devices, leases, processes, preemption, exhaustion, slurm, environment, commit.
Inside: usage.

Nothing in here is part of a rule's code (`planning.digests`): an edited message or lock reruns nothing. What changes
numbers belongs into a room of the science; where that cannot be, raise `planning.digests.NUMBERS`.
"""
