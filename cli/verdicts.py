"""What a comparison of two models comes to, in a sentence."""

from __future__ import annotations


def verdict(real: bool, difference: float, deviations: float) -> str:
    """Whether the difference of two models is one."""
    if not real:
        return f"no difference that is more than chance ({deviations:.1f} standard errors): read more text to tell"
    return f"the {'first' if difference < 0 else 'second'} is better, by {deviations:.1f} standard errors"
