"""Model Breadcrumbs: differences that are neither among the largest nor small.

Source: Davari and Belilovsky, "Model Breadcrumbs: scaling multi-task model merging with sparse masks" (2023),
https://arxiv.org/abs/2312.06795.
"""

from __future__ import annotations

from requant.merging.methods.sparsity import GAMMA, Middling
from requant.merging.methods.tasks import task_method

BREADCRUMBS = task_method(
    "breadcrumbs", "Model Breadcrumbs", "https://arxiv.org/abs/2312.06795", sparsity=Middling, more=(GAMMA,)
)
