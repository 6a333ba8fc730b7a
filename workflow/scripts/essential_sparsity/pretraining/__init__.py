"""Pre-training: small models from scratch, with the checkpoints of their course.

In: rows of a corpus and a recipe. Out: checkpoints at log-spaced steps, and the losses.

Doors: loop, losses, recipe.
Inside: objectives (what the loop asks of one), masked_text, causal_text, labelled_images, masked_images, corpus,
text_corpus, image_corpus.

To add an objective: a module as `objectives` says, a class in `recipe`, a line of `loop.OBJECTIVES`, its keys in the
schema of models.
"""
