"""Error feedback: the options of `convert` and `requantize`, and what the statistics of `calibrate` have for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.cli import options, writing

if TYPE_CHECKING:
    from requant.feedback import Feedback, Smoothing
    from requant.importance import Importance
    from requant.statistics import Statistics

#: What is added to the diagonal of a Hessian, as a part of its mean.
_DAMPING: Final = 0.05
#: What --smooth says without a power.
_SEARCHED: Final = "search"


@dataclass(frozen=True, slots=True)
class FeedbackOptions:
    """How errors are made up for; see the help of each."""

    feedback: bool | None
    damping: float | None
    act_order: str | None
    scales: str | None
    smooth: str | None

    def smoothing(self, statistics: Statistics | None, importance: Importance | None) -> Smoothing | None:
        """What --smooth asks for; `UsageError` for what is no power, and without an importance matrix."""
        if self.smooth is None:
            return None
        if importance is None:
            raise click.UsageError("--smooth needs --stats or --imatrix")
        from requant.feedback import Smoothing, smoothing_by

        said = Smoothing() if statistics is None else smoothing_by(statistics)
        if self.smooth == _SEARCHED:
            return said
        try:
            alpha = float(self.smooth)
        except ValueError:
            alpha = -1.0
        if not 0 <= alpha <= 1:
            raise click.UsageError(f"--smooth {self.smooth}: a power from 0 to 1, or {_SEARCHED}")
        return replace(said, alpha=alpha)

    def of(self, statistics: Statistics | None, recipe: str | None) -> Feedback | None:
        """What --stats has for `recipe`; `UsageError` where it has no Hessians, or nobody asks for feedback."""
        detailed = (self.damping, self.act_order, self.scales) != (None, None, None)
        if statistics is None:
            if self.feedback or detailed:
                raise click.UsageError(
                    "--feedback, --damping, --act-order and --scales need --stats, "
                    "which `requant calibrate --hessians` makes"
                )
            return None
        from requant import feedback

        named = feedback.stands_for_feedback(recipe) and bool(statistics.hessians)
        if not (named if self.feedback is None else self.feedback):
            if detailed:
                raise click.UsageError("--damping, --act-order and --scales go with --feedback")
            return None
        if not statistics.hessians:
            raise click.UsageError("--feedback: the statistics have no Hessians; `requant calibrate --hessians` does")
        said = feedback.FeedbackOptions(
            _DAMPING if self.damping is None else self.damping,
            feedback.ColumnOrder(self.act_order) if self.act_order else feedback.usual_order(recipe),
            feedback.Scales(self.scales or "mse"),
        )
        return feedback.feedback_by(statistics, said)


def statistics_of(stats: Path | None, choices: writing.Choices) -> Statistics | None:
    """What --stats names, instead of an importance matrix."""
    if stats is None:
        return None
    if choices.imatrix is not None:
        raise click.UsageError("--stats holds an importance matrix: leave out --imatrix")
    from requant.formats.imatrix.statistics import read_statistics

    found = read_statistics(stats)
    return replace(found, importance=replace(found.importance, source=str(stats)))


#: Shared by `convert` and `requantize`.
feedback_options = options.gathered(
    "correcting",
    FeedbackOptions,
    click.option(
        "--feedback/--no-feedback",
        default=None,
        help="With --stats: columns make up for the rounding errors of those before them (GPTQ).",
    ),
    click.option(
        "--damping",
        type=options.Number(1e-6, 10),
        metavar="X",
        help=f"With --feedback: X times its mean is added to the diagonal of each Hessian. [default: {_DAMPING}]",
    ),
    click.option(
        "--act-order",
        type=click.Choice(["none", "groups", "static"]),
        help="With --feedback: columns as they lie, by falling activation in groups of that order, or by it in groups "
        "as they lie. [default: static; of a GGUF none]",
    ),
    click.option(
        "--scales",
        type=click.Choice(["mse", "minmax"]),
        help="With --feedback: scales of integers by least error, or by a group's range. [default: mse]",
    ),
    click.option(
        "--smooth",
        is_flag=False,
        flag_value=_SEARCHED,
        metavar="ALPHA",
        help="Multiply columns with large inputs, and divide what makes them (AWQ); without ALPHA it is searched.",
    ),
)
