"""Study: a file that picks models, methods, sparsities, tasks and seeds, resolved and checked before any job.

In: `config/*.yaml`. Out: what is evaluated, and what each job is told.

Doors: study, claims, validation.
Inside: tasks, recipes, sweeps, pairs.
"""
