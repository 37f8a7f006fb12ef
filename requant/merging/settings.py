"""Parameters as a recipe sets them: plain, as gradients over layers, by filters on tensors' names; and their values.

As mergekit 0.1.5 resolves them: the innermost setting that has a value counts; a gradient's numbers are points at equal
distances from the first to the last layer of a slice, with straight lines between; of filtered values the first counts
whose filter is part of the tensor's name. Tensors outside of layers take the first point of a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from requant.merging.entry import Entry
from requant.merging.methods import METHODS
from requant.merging.methods.method import Method, Parameter, Value

#: Filters that every name passes.
_ANY = (None, "*")
#: The largest number of float32, in which merges are computed.
_LARGEST: Final = 3.4028234663852886e38
_TRUE, _FALSE = ("true", "yes", "on", "y", "t", "1"), ("false", "no", "off", "n", "f", "0")


@dataclass(frozen=True, slots=True)
class Choice:
    """A plain value (one point) or a gradient, for tensors whose names have `filter` in them."""

    points: tuple[Entry, ...]
    filter: str | None = None


#: What one parameter is set to: the first choice that fits.
Setting = tuple[Choice, ...]
Settings = Mapping[str, Setting]


def settings_of(entry: Entry | None) -> dict[str, Setting]:
    """A `parameters` mapping; a name that no method knows is an error."""
    if entry is None:
        return {}
    found = {}
    known = sorted({parameter.name for method in METHODS.values() for parameter in method.parameters})
    for name, value in entry.named():
        if name not in known:
            raise entry.unknown(name, known, "no method has a parameter")
        found[name] = _setting(value)
    return found


def _setting(entry: Entry) -> Setting:
    if isinstance(entry.value, dict):
        return (_filtered(entry),)
    if not isinstance(entry.value, list):
        return (Choice((_scalar(entry),)),)
    items = entry.items()
    if any(isinstance(item.value, dict) for item in items):
        return tuple(_filtered(item) for item in items)
    return (Choice(tuple(_scalar(item) for item in items)),)


def _filtered(entry: Entry) -> Choice:
    members = entry.members(("value", "filter"))
    if "value" not in members:
        raise entry.wrong("has no value")
    value = members["value"]
    points = value.items() if isinstance(value.value, list) else [value]
    wanted = members["filter"].text() if "filter" in members else None
    return Choice(tuple(_scalar(point) for point in points), wanted)


def _scalar(entry: Entry) -> Entry:
    if isinstance(entry.value, bool | int | float | str):
        return entry
    raise entry.expected("a number, true or false, a list of them, or a list of values with filters")


def choice_of(parameter: Parameter, sources: Sequence[Settings], tensor: str) -> Choice | None:
    """The choice that counts for a tensor; None if none is set. `sources` are settings, the innermost first."""
    for settings in sources:
        for choice in settings.get(parameter.name, ()):
            if choice.filter in _ANY or str(choice.filter) in tensor:
                return choice
    return None


def value_of(parameter: Parameter, choice: Choice | None, t: float) -> Value:
    """Its value, `t` (0 to 1) of the way from the first layer to the last; the default if none is set.

    Raises `PlanError` for what is no value of the parameter.
    """
    return parameter.default if choice is None else _interpolated(parameter, choice.points, t)


def _interpolated(parameter: Parameter, points: Sequence[Entry], t: float) -> Value:
    values = [_converted(parameter, point) for point in points]
    at = t * (len(values) - 1)
    low = int(at)
    if parameter.kind is bool:
        return values[low]
    high = min(len(values) - 1, low + 1)
    value = (1 - (at - low)) * float(values[low]) + (at - low) * float(values[high])
    if parameter.kind is int:
        if not value.is_integer():
            raise points[low].wrong(f"{parameter.name} takes whole numbers, and the gradient gives {value:g} here")
        return int(value)
    return value


def _converted(parameter: Parameter, entry: Entry) -> bool | int | float:
    """A scalar as the parameter's kind; YAML reads 1e-5 as text."""
    value = entry.value
    if parameter.kind is bool:
        text = str(value).lower()
        if text in _TRUE or value in (1, True):
            return True
        if text in _FALSE or value in (0, False):
            return False
        raise entry.expected("true or false")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise entry.expected("a number") from None
    if not math.isfinite(number):
        raise entry.expected("a finite number")
    if abs(number) > _LARGEST:
        raise entry.expected("a number that float32 can hold")
    if parameter.share and not 0 <= number <= 1:
        raise entry.expected("of 0 to 1")
    if parameter.kind is int and not number.is_integer():
        raise entry.expected("a whole number")
    return int(number) if parameter.kind is int else number


def filtered(method: Method, settings: Settings) -> Iterator[Choice]:
    """The choices that are not for every tensor, of parameters that the method has."""
    known = (setting for name, setting in settings.items() if method.parameter(name) is not None)
    return (choice for setting in known for choice in setting if choice.filter not in _ANY)


def unused(method: Method, settings: Settings) -> list[str]:
    """Parameters that are set and that this method does not have; others do, so that recipes change method freely."""
    return [name for name in settings if method.parameter(name) is None]
