"""Students: smaller models that begin with some of a teacher's layers, perhaps narrower ones.

What a student begins with is cut out of the teacher like what is pruned: depth by a mapping of layers, width by the
units whose weights are largest. Training it is the user's (docs/training.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from requant.errors import PlanError
from requant.layout import Format
from requant.merging.layers import student_layers
from requant.merging.model import Model
from requant.operations.convert import Request
from requant.operations.prune import Options, plan_prune
from requant.plan import Plan
from requant.pruning.structure import Wanted, depth_of
from requant.pruning.units import TIED_WIDTH, Sizes

#: Widths are multiples of this many columns, as kernels like them.
_STEP: Final = 8


@dataclass(frozen=True, slots=True)
class Student:
    """layers: how many of the teacher's; None for all. mapping: which, a name of `requant.merging.layers.MAPPINGS`.

    units: the width that is left; its `layers` do not count.
    """

    layers: int | None = None
    mapping: str = "uniform"
    units: Wanted = field(default_factory=Wanted)

    def of(self, teacher: Model) -> Wanted:
        """What is left of a teacher. Raises `PlanError` for more layers than it has."""
        if self.layers is None:
            return self.units
        return replace(self.units, layers=student_layers(depth_of(teacher), self.layers, self.mapping))


def plan_student(teacher: Model, student: Student, target: Format, destination: Path, request: Request) -> Plan:
    """Decide how a teacher becomes `destination`; raises `PlanError` for what cannot be cut so."""
    units = student.of(teacher)
    if units == Wanted():
        raise PlanError("the student is the whole teacher", hint="--layers N, --like distilbert, --ffn N, ...")
    return plan_prune(teacher, target, destination, Options(units, conversion=request))


def _distilbert(teacher: Model) -> Student:
    """Half the layers, the first and the last among them, of full width: of 12 those at 0, 2, 4, 7, 9, 11, as
    Hugging Face's script for DistilBERT and DistilGPT2 takes them."""
    return Student(max(1, depth_of(teacher) // 2), "uniform")


def _tinybert(teacher: Model) -> Student:
    """A third of the layers, the last of each three (Jiao and others, 2019: the layer 3 m of 12), and of the width as
    much as TinyBERT with 4 layers has of BERT-base's: 312 of 768 columns, 1,200 of 3,072 neurons.

    Heads stay whole, where TinyBERT makes all 12 narrower, so that they begin with what the teacher's have learned.
    """
    sizes = Sizes.of(teacher)
    groups = max(1, round(sizes.kv_heads * 312 / 768))
    heads = groups * (sizes.heads // sizes.kv_heads)
    hidden = max(_STEP, round(sizes.hidden * 312 / 768 / _STEP) * _STEP)
    units = Wanted(
        hidden=heads * sizes.head if teacher.value("model_type") in TIED_WIDTH else hidden,
        heads=heads,
        kv_heads=groups,
        ffn=_share(sizes.ffn) or None,
        expert_ffn=_share(sizes.expert_ffn) or None,
    )
    return Student(max(1, depth_of(teacher) // 3), "ends", units)


def _share(neurons: int) -> int:
    return max(_STEP, round(neurons * 1200 / 3072 / _STEP) * _STEP) if neurons else 0


#: Students of the literature -> what one of a given teacher is.
LIKE: Final[Mapping[str, Callable[[Model], Student]]] = {"distilbert": _distilbert, "tinybert": _tinybert}
