"""Pruning: weights that become zero, and units that are cut out of a model.

What is left is a node over the model's tensors (`masked.py`) or a smaller model (`structure.py`); everything else a
conversion does.
"""
