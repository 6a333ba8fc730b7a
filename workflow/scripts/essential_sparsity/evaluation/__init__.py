"""Evaluation: one number: checkpoint x method x sparsity x task x seed, with its examples.

In: a checkpoint, a mask, prepared inputs. Out: a row and a table of examples.

Doors: evaluate (around every protocol), outcomes (what one returns), perplexity, finetuned, benchmark, probes, tables.
Inside: benchmark_tasks, benchmark_files, features.
"""
