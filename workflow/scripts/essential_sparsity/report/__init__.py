"""The report: one HTML file that needs nothing beside it, the answer first.

In: a study's tables and figures. Out: `report.html`, `summary.txt`.

Doors: content (from tables to what is said), page (to HTML), gathered (several studies).
Inside: tables, data, charts. Two inner rooms: words, and figures above them.
"""
