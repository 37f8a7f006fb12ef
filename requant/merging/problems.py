"""Contradictions of a recipe and its models, which are gathered, so that all are told at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from requant.errors import PlanError

#: Contradictions that are listed before the rest is counted.
_SHOWN: Final = 20
#: What a contradiction says -> what helps.
_HINTS: Final = {
    "rows of tokens": "tokenizer_source: union (or base) in the recipe gives every token its own row",
    "several stacks": "name a module under `modules:`, such as text_decoder, encoder or a stack; others stay",
}


@dataclass(slots=True)
class Problems:
    """places: by what is wrong, the tensors or keys where it is."""

    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, where: str) -> None:
        """Remember a contradiction; `where` is a tensor or a key, or empty."""
        self.places.setdefault(what, []).append(where)

    def stop(self, file: str) -> None:
        """Raises `PlanError` if there are any."""
        if not self.places:
            return
        lines = []
        for what, places in list(self.places.items())[:_SHOWN]:
            named = list(dict.fromkeys(place for place in places if place))
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            lines.append(f"  {what}" + (f": {', '.join(named[:3])}{more}" if named else ""))
        left = len(self.places) - _SHOWN
        lines += [f"  and {left} more"] if left > 0 else []
        told = (
            lines[0].lstrip() if len(self.places) == 1 else "\n".join([f"{len(self.places)} contradictions:", *lines])
        )
        hint = next((hint for sign, hint in _HINTS.items() if any(sign in what for what in self.places)), "")
        raise PlanError(f"{file}: {told}", hint=hint)
