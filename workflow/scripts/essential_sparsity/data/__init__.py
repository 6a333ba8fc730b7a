"""Data: datasets as rows, and rows as the inputs that a protocol reads.

In: files of a source. Out: `results/datasets`, rows in Parquet; `results/inputs`, Arrow files that are mapped.

Doors: kinds (what a dataset is), tasks (what is asked of it), rows, prepare, prepared, batches, tokens, spans, pixels.
Inside: tables, texts, images, pixel_columns.

To add a kind of inputs: a function in `prepare` and its reader; the batches of fine-tuning are in `training.kinds`.
"""
