"""Types chosen for a size or a divergence: the options of `convert` and `requantize`, and what they lead to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.cli import options, outputs, paths, writing
from requant.cli.terminal import remark, say
from requant.errors import PlanError

if TYPE_CHECKING:
    from requant.encodings import Encoding
    from requant.ir import Naming
    from requant.operations.allocate import Choices, Planner, Question, Target
    from requant.plan import Plan
    from requant.recipes import Overrides
    from requant.statistics import Statistics

#: The recipe that says what is rounded at all, where the user names none.
RECIPE: Final = "Q4_K_M"
#: Recipes whose own mixes a frontier shows beside itself.
_MIXES: Final = ("IQ2_M", "Q2_K", "IQ3_M", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")


@dataclass(frozen=True, slots=True)
class AllocationOptions:
    """What is asked of a size; see the help of each."""

    stats: Path | None
    target_size: str | None
    target_bpw: float | None
    target_kl: float | None
    types: str | None
    min_types: tuple[str, ...]
    keep: tuple[str, ...]
    recipe_out: Path | None
    frontier: bool

    @property
    def asked(self) -> bool:
        """Whether types are to be chosen; `UsageError` for what has no say without that, and for what is missing."""
        targets = [self.target_size, self.target_bpw, self.target_kl]
        given = sum(target is not None for target in targets) + self.frontier
        if given > 1:
            raise click.UsageError("one of --target-size, --target-bpw, --target-kl and --frontier at a time")
        if not given and (self.types or self.min_types or self.keep or self.recipe_out):
            raise click.UsageError(
                "--types, --min-type, --keep and --recipe-out go with --target-size, --target-bpw, --target-kl or "
                "--frontier"
            )
        if given and self.stats is None:
            raise click.UsageError("a target needs --stats, which `requant calibrate` makes")
        if self.frontier and self.recipe_out is not None:
            raise click.UsageError("--frontier chooses nothing that --recipe-out could write")
        return bool(given)

    def target(self) -> Target:
        """As the operation takes it."""
        from requant.operations.allocable import type_named
        from requant.operations.allocate import Target

        nbytes = outputs.size_of(self.target_size, "--target-size") if self.target_size else None
        names = tuple(type_named(word) for word in self.types.split(",")) if self.types else ()
        least = tuple(_least(text) for text in self.min_types)
        return Target(nbytes, self.target_bpw, self.target_kl, names, least, self.keep)

    def statistics(self) -> Statistics:
        """What --stats names."""
        from requant.formats.imatrix.statistics import read_statistics

        assert self.stats is not None
        return read_statistics(self.stats)


#: Shared by `convert` and `requantize`.
allocation_options = options.gathered(
    "wish",
    AllocationOptions,
    click.option("--stats", type=paths.FILE, help="Of `requant calibrate`."),
    click.option("--target-size", metavar="SIZE", help="Choose types so that the files have SIZE, such as 4.2GB."),
    click.option("--target-bpw", type=options.Number(0.5, 33), metavar="B", help="The same, in bits per weight."),
    click.option(
        "--target-kl", type=options.Number(0), metavar="NATS", help="The smallest whose expected KL divergence is that."
    ),
    click.option("--types", metavar="TYPE,...", help="With a target: what tensors may become."),
    click.option(
        "--min-type",
        "min_types",
        multiple=True,
        metavar="REGEX=TYPE",
        help="With a target: tensors whose name has a match get no fewer bits. Repeatable.",
    ),
    click.option(
        "--keep",
        multiple=True,
        metavar="REGEX",
        help="With a target: tensors whose name has a match stay as they are stored. Repeatable.",
    ),
    click.option("--recipe-out", type=click.Path(path_type=Path), help="With a target: write the types chosen."),
    click.option("--frontier", is_flag=True, help="Print what KL divergence each size is expected to have, and stop."),
)


def question(wish: AllocationOptions, planner: Planner, recipe: str, overrides: Overrides, naming: Naming) -> Question:
    """What is asked of the statistics; losses that were measured are kept beside them."""
    from requant.divergence_cache import Cache
    from requant.operations.allocable import kind_for
    from requant.operations.allocate import Question

    kind = kind_for(recipe, naming)
    assert wish.stats is not None
    return Question(planner, recipe, overrides, wish.statistics(), kind, Cache(wish.stats))


def plan_of_size(wish: AllocationOptions, asked: Question, how: writing.RunOptions) -> Plan:
    """The types chosen, told, and written down if asked for."""
    from requant.cli.execution import measuring
    from requant.operations.allocate import plan_allocation

    if wish.recipe_out is not None:
        options.refuse_to_overwrite(wish.recipe_out, how.force or how.dry_run)
    target = wish.target()
    with measuring(how.quiet):
        plan, found = plan_allocation(asked, target)
    if wish.recipe_out is not None and not how.dry_run:
        wish.recipe_out.write_text(found.recipe, "utf-8")
    if found.expected is None and not how.quiet:
        remark(f"{wish.stats} has no gradients: types chosen by each tensor's own error may lose more than a mix does")
    return plan


def say_frontier(wish: AllocationOptions, asked: Question, how: writing.RunOptions) -> None:
    """KL against size, as a table, a document or a page."""
    from requant.cli.execution import measuring
    from requant.cli.frontier import document, page, text
    from requant.cli.saying import say_document
    from requant.operations.allocable import GgufTypes
    from requant.operations.allocate import choices

    if how.html is not None:
        from requant.cli.pages.writing import check_page, write_page

        check_page(how.html)
    target = wish.target()
    with measuring(how.quiet):
        found = choices(asked, target)
    mixes = _mixes(found) if isinstance(asked.kind, GgufTypes) else {}
    said = document(found, mixes)
    if how.as_json:
        say_document("frontier", said)
    else:
        say(text(said))
    if how.html is not None:
        remark(write_page(how.html, page(said, str(found.before.layout.root))))


def _mixes(found: Choices) -> dict[str, tuple[int, float]]:
    """(bytes, loss) of recipes of llama.cpp's, where their types were tried."""
    plans = {name: found.question.plan(found.overrides, rehearsal=True, recipe=name) for name in _MIXES}
    mixes = {name: found.of(plan) for name, plan in plans.items()}
    return {name: at for name, at in mixes.items() if at is not None}


def _least(text: str) -> tuple[str, Encoding]:
    from requant.recipes import tensor_type

    pattern, separator, word = text.rpartition("=")
    if not separator or not pattern:
        raise PlanError(f"--min-type {text!r} should be REGEX=TYPE", hint="for example attn_v=Q5_K")
    return pattern, tensor_type(f"x={word}")[1]
