"""Methods: score x allocation x scope x pattern, with refinement and update.

In: an entry of `config/methods.yaml`. Out: functions of one matrix and of the statistics of its inputs.

Doors: method (which combinations make sense), scores, allocation, refinement, updates, statistics, levels, rounds.

To add a score: a function and a line of `scores.SCORES`; likewise an allocation, a refinement, an update.
"""
