"""Pruning: the exact mask of a checkpoint by a method, at a level.

In: a checkpoint, its manifest, statistics. Out: packed masks with what they are in the header.

Doors: prune (by scores), blocks (block by block), streaming (statistics on the model's own forward), selection (the k
smallest, exactly), masks (the file, and applying it), tools, statistics, keys, bits, calibration_text, tables.
Inside: observer.

Sparsity is asserted wherever it could be lost. Ties go by position, so that the same mask comes out everywhere.
"""
