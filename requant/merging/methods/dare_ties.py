"""DARE with the vote on signs of TIES.

Source: Yu et al., "Language models are super Mario: absorbing abilities from homologous models as a free lunch" (2023),
https://arxiv.org/abs/2311.03099.
"""

from __future__ import annotations

from requant.merging.methods.sparsity import Bernoulli
from requant.merging.methods.tasks import task_method

DARE_TIES = task_method(
    "dare_ties", "DARE TIES", "https://arxiv.org/abs/2311.03099", sparsity=Bernoulli, vote=True, rescale=True
)
