"""Task arithmetic: differences from the base, weighted and added.

Source: Ilharco et al., "Editing models with task arithmetic" (2022),
https://arxiv.org/abs/2212.04089.
"""

from __future__ import annotations

from requant.merging.methods.tasks import task_method

TASK_ARITHMETIC = task_method("task_arithmetic", "Task Arithmetic", "https://arxiv.org/abs/2212.04089")
