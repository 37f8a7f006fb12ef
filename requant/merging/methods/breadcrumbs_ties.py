"""Model Breadcrumbs with the vote on signs of TIES.

Source: Davari and Belilovsky, "Model Breadcrumbs: scaling multi-task model merging with sparse masks" (2023),
https://arxiv.org/abs/2312.06795.
"""

from __future__ import annotations

from requant.merging.methods.sparsity import GAMMA, Middling
from requant.merging.methods.tasks import task_method

BREADCRUMBS_TIES = task_method(
    "breadcrumbs_ties",
    "Model Breadcrumbs with TIES",
    "https://arxiv.org/abs/2312.06795",
    sparsity=Middling,
    vote=True,
    more=(GAMMA,),
)
