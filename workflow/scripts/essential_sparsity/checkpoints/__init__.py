"""Checkpoints: one point of a model's pre-training as a folder that transformers loads.

In: the bytes of a source. Out: `model.safetensors`, `companions/`, `provenance.json`; the manifest of matrices.

Doors: extract (from whatever the weights were stored in), files, tensors, writer, manifest, layers (what can be
pruned), placement (where it lies in a live model), loading, remote_code, steps, precision.
Inside: gguf.
"""
