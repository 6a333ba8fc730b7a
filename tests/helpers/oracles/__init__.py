"""The published methods once more, in NumPy and float64, from the papers' formulas: what the library is compared with.

Nothing here knows the library, and nothing here is fast. ``w`` is a matrix of weights (outputs, inputs), ``x`` its
inputs over all calibration tokens (tokens, inputs), ``samples`` the number of sequences that these tokens come from,
``keep`` a boolean matrix, True where a weight stays.
"""
