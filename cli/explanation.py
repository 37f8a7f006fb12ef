"""`--explain`: the passes by which a plan was made."""

from __future__ import annotations

import textwrap
from typing import Final

from requant.cli.tables import count, table
from requant.passes.explained import Explained, explained
from requant.plan import Plan

#: Columns for what a pass did; more goes on in the next line.
_WIDTH: Final = 44


def explanation_text(plan: Plan) -> str:
    """The list of passes: what each is for, and what it did."""
    rows = [["pass", "so that", "did"]]
    for one in explained(plan.passes):
        first, *more = textwrap.wrap(_did(one), _WIDTH)
        rows += [[one.name, one.does, first], *(["", "", line] for line in more)]
    return table(rows)


def _did(one: Explained) -> str:
    """`renamed 20, values moved 4`."""
    done = [f"{what.replace('_', ' ')} {count(number)}" for what, number in one.did.items()]
    types = [f"to {label} {count(number)}" for label, number in one.types.items()]
    return ", ".join([*types, *done]) or "nothing"
