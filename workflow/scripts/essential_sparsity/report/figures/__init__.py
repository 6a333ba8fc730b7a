"""Figures: legible without colour vision, and the same bytes on every run.

In: the tables of a study. Out: SVG and PDF.

Doors: kinds (of figures), style (of all), and a module a figure: curves, layers, similarities, weights, emergence,
ages, losses, findings.

To add a figure: a module, its record in `kinds` and its caption in `workflow/report`, what a study has of it in
`workflow/rules/figures.smk`, its function in `plot.py`.
"""
