"""A list of passes made into a plan."""

from __future__ import annotations

from collections.abc import Sequence

from requant.passes.layout import obsolete_files
from requant.passes.passing import Pass, made
from requant.plan import Plan, Translation
from requant.sources import noting, slices


def planned(passes: Sequence[Pass], begun: Translation) -> Plan:
    """What `passes`, the last of which have placed every byte, make of `begun`."""
    with noting() as noted:  # tokenizers are read on the way
        said, trail = made(passes, begun)
    if said.layout is None:
        raise ValueError("a plan needs a pass that places its bytes")
    opened = (*said.source.opened, *slices(noted))
    return Plan(said.steps, said.layout, said.losses, obsolete_files(said.layout), trail, opened, said.hints)
