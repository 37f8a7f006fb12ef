"""The loss of a student that learns from a teacher's logits.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, and, for the reverse divergence, Gu and
others, "MiniLLM", 2023.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

from requant.errors import PlanError

#: The label of positions that do not count, as torch's cross entropy and transformers have it.
IGNORED = -100


def distillation_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
    divergence: Literal["forward", "reverse"] = "forward",
) -> torch.Tensor:
    """α T² KL + (1 - α) cross entropy, in nats, as the mean over positions.

    student, teacher: logits [..., tokens]; no gradient reaches the teacher's. labels: [...], what comes at each
    position (whoever predicts the next token has moved them by one); -100 leaves a position out of both terms. Without
    labels there is the divergence alone, and alpha does not count.

    divergence: "forward" is KL(teacher ‖ student), by which the student covers all that the teacher finds likely;
    "reverse" is KL(student ‖ teacher), by which it avoids what the teacher finds unlikely. Both are of the logits
    divided by the temperature; T² makes up for gradients that shrink with it.

    Raises `PlanError` for shapes that differ, and for parameters that are none.

    >>> logits = torch.tensor([[1.0, 2.0, 3.0]])
    >>> float(distillation_loss(logits, logits))
    0.0
    """
    _check(student, teacher, labels, temperature, alpha, divergence)
    columns = student.shape[-1]
    student, teacher = student.reshape(-1, columns).float(), teacher.detach().reshape(-1, columns).float()
    targets = None if labels is None else labels.reshape(-1)
    if targets is not None:
        counted = targets != IGNORED
        student, teacher, targets = student[counted], teacher[counted], targets[counted]
    if not len(student):
        return student.sum()  # 0, with a gradient of 0
    ours = functional.log_softmax(student / temperature, dim=-1)
    theirs = functional.log_softmax(teacher / temperature, dim=-1)
    first, second = (theirs, ours) if divergence == "forward" else (ours, theirs)
    apart = (first.exp() * (first - second)).sum(-1).mean() * temperature**2
    if targets is None:
        return apart
    return alpha * apart + (1 - alpha) * functional.cross_entropy(student, targets)


def _check(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor | None,
    temperature: float,
    alpha: float,
    divergence: str,
) -> None:
    if student.shape != teacher.shape:
        raise PlanError(
            f"the student's logits are {list(student.shape)}, the teacher's {list(teacher.shape)}",
            hint="both need the same tokens; cut rows that no token has from the longer",
        )
    if labels is not None and labels.shape != student.shape[:-1]:
        raise PlanError(f"the labels are {list(labels.shape)}, the logits {list(student.shape)}")
    if not temperature > 0:
        raise PlanError(f"a temperature is greater than 0, not {temperature}")
    if not 0 <= alpha <= 1:
        raise PlanError(f"alpha is from 0 to 1, not {alpha}")
    if divergence not in ("forward", "reverse"):
        raise PlanError(f"divergence is 'forward' or 'reverse', not {divergence!r}")
