"""Study: a file that picks models, methods, sparsities, tasks and seeds, resolved and checked before any job.

In: `config/*.yaml`. Out: what is evaluated, and what each job is told.

Doors: resolve (from a file to a study), study (what follows), registries (what is known), asked (what is asked),
checks, claims (what is refused), validation.
Inside: models, tasks, protocols, sweeps, pairs.
"""
