"""Merging: several models become one, by recipes as mergekit's users write them.

A recipe (`recipe.py`) says for every tensor which method (`methods/`) makes it, of which models, with which parameters
(`settings.py`). The result is a node over the models' tensors (`merged.py`); everything else a conversion does.
"""
