"""Several plans of one model, carried out in one pass: whose files lie where, and which steps have the same values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from requant.encodings import Encoding
from requant.errors import PlanError
from requant.jobs import shared_by
from requant.layout import Layout, OutputFile
from requant.plan import Plan, Step
from requant.runs import rows_per_run


def together(plans: Sequence[Plan]) -> tuple[Layout, tuple[Mapping[str, str], ...]]:
    """The files of all plans as one layout; and of each plan, what its files are called there."""
    if len(plans) == 1:
        return plans[0].layout, ({file.name: file.name for file in plans[0].layout.files},)
    roots = [plan.layout.root.absolute() for plan in plans]
    root = Path(os.path.commonpath(roots))
    names = tuple(
        {file.name: (own.relative_to(root) / file.name).as_posix() for file in plan.layout.files}
        for own, plan in zip(roots, plans, strict=True)
    )
    taken = list(chain.from_iterable(named.values() for named in names))
    for name in taken:
        if taken.count(name) > 1:
            raise PlanError(f"{root / name} would be written twice", hint="a name with {} in it differs by recipe")
    files = (
        replace(file, name=named[file.name])
        for named, plan in zip(names, plans, strict=True)
        for file in plan.layout.files
    )
    return Layout(root, tuple(files)), names


def input_bytes(plans: Sequence[Plan]) -> int:
    """Bytes of tensors that are read for all plans in one pass."""
    return sum(group[0].step.input_bytes for group in groups_of(plans, [{} for _ in plans]))


@dataclass(frozen=True, slots=True)
class Way:
    """A step, the file that it goes to, and the offset of each part there."""

    step: Step
    file: str
    offsets: Mapping[str, int]


def groups_of(plans: Sequence[Plan], names: Sequence[Mapping[str, str]]) -> list[list[Way]]:
    """Every step on its way, in the order of the files; steps of the same values, in runs of as many rows, together."""
    groups: list[list[Way]] = []
    known: dict[tuple[str, int, Encoding | bool], list[list[Way]]] = {}
    for plan, named in zip(plans, names, strict=True):
        steps = {step.target.name: step for step in plan.steps}
        for file in plan.layout.files:
            for name, offsets in _slots_by_tensor(file).items():
                way = Way(steps[name], named.get(file.name, file.name), offsets)
                if len(plans) > 1 and (shared := shared_by(way.step)) is not False:
                    alike = known.setdefault((name, rows_per_run(way.step), shared), [])
                    group = next((one for one in alike if one[0].step.values == way.step.values), None)
                    if group is not None:
                        group.append(way)
                        continue
                    alike.append([way])
                    groups.append(alike[-1])
                else:
                    groups.append([way])
    return groups


def _slots_by_tensor(file: OutputFile) -> dict[str, dict[str, int]]:
    """Part offsets of each tensor, in the order in which the tensors lie in the file."""
    tensors: dict[str, dict[str, int]] = {}
    for (name, part), offset in sorted(file.slots.items(), key=lambda slot: slot[1]):
        tensors.setdefault(name, {})[part] = offset
    return tensors
