"""DELLA without a vote on signs.

Source: Deep et al., "DELLA-Merging: reducing interference in model merging through magnitude-based sampling" (2024),
https://arxiv.org/abs/2406.11617.
"""

from __future__ import annotations

from requant.merging.methods.sparsity import EPSILON, Magprune, epsilon_fits
from requant.merging.methods.tasks import task_method

DELLA_LINEAR = task_method(
    "della_linear",
    "Linear DELLA",
    "https://arxiv.org/abs/2406.11617",
    sparsity=Magprune,
    rescale=True,
    more=(EPSILON,),
    check=epsilon_fits,
)
