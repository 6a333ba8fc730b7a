"""Words: what the tables say, in sentences for people.

In: the tables of a study. Out: plain texts.

Doors: headline, sentences, notes, knees, verdicts, numbers, summary, trajectory.
"""
