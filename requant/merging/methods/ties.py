"""TIES: the largest differences of each model, of the sign that most of their weight has, averaged.

Source: Yadav et al., "TIES-Merging: resolving interference when merging models" (2023),
https://arxiv.org/abs/2306.01708.
"""

from __future__ import annotations

from requant.merging.methods.sparsity import Largest
from requant.merging.methods.tasks import task_method

TIES = task_method("ties", "TIES", "https://arxiv.org/abs/2306.01708", sparsity=Largest, vote=True, normalize=True)
