"""Training: fine-tuning with the mask fixed, on transformers' Trainer.

In: a checkpoint, a pruning, prepared inputs. Out: a trained model; states, from which a killed training goes on.

Doors: fit (heads, building, training), loop, trainer (what pre-training shares), kinds, rounds (iterative pruning).

To add a kind of task: an entry of `kinds.TASK_KINDS`; a head: one of `fit.HEADS`.
"""
