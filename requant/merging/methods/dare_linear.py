"""DARE: differences dropped at random and the rest scaled up, weighted and added.

Source: Yu et al., "Language models are super Mario: absorbing abilities from homologous models as a free lunch" (2023),
https://arxiv.org/abs/2311.03099.
"""

from __future__ import annotations

from requant.merging.methods.sparsity import Bernoulli
from requant.merging.methods.tasks import task_method

DARE_LINEAR = task_method(
    "dare_linear", "Linear DARE", "https://arxiv.org/abs/2311.03099", sparsity=Bernoulli, rescale=True
)
