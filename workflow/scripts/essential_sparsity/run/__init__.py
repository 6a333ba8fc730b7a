"""What carries a job and computes nothing: its log, its errors, its GPUs, what it spends.

Comes in: a script's ``main`` and Snakemake's object. Goes out: the same outputs, whatever machine ran it. The doors are
:mod:`job` (around every script), :mod:`devices` (where it computes) and :mod:`leases` (which GPU it may have).

Nothing in here is part of a rule's code (:mod:`essential_sparsity.digests`): an edited message or lock reruns nothing.
What does change numbers belongs into a room of the science; where that cannot be, raise :data:`NUMBERS`.
"""

# Part of every rule's code: raised by hand, it reruns all results.
NUMBERS = 1
