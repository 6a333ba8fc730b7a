"""Emergence: what changes in the weights over pre-training, and when.

In: checkpoints. Out: the tables of weights, trajectories, histograms and changes.

Doors: statistics (of one checkpoint), changes (over the course), places, tables.
"""
