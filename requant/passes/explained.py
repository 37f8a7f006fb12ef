"""What each pass of a plan did, counted: found by comparing what it was given with what it made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from requant.ir import Json
from requant.plan import Move, Passed, Translation

#: What config, metadata and files are called.
_MAPPINGS = {"config": "config_keys", "metadata": "metadata_keys", "files": "files"}


@dataclass(frozen=True, slots=True)
class Explained:
    """One pass. did: what it did -> how many times. types: label of each type it has chosen -> for how many tensors."""

    name: str
    does: str
    did: Mapping[str, int]
    types: Mapping[str, int]

    def to_json(self) -> dict[str, Json]:
        """As printed by `--explain --json`."""
        return {"name": self.name, "does": self.does, "did": dict(self.did), "types": dict(self.types)}


def explained(passes: Iterable[Passed]) -> list[Explained]:
    """What each of the passes did, in order."""
    return [Explained(one.name, one.does, did(one.before, one.after), chosen(one.before, one.after)) for one in passes]


def chosen(before: Translation, after: Translation) -> dict[str, int]:
    """Types that were chosen, counted; nothing where they were known before."""
    return {} if before.encodings else dict(Counter(encoding.label for encoding in after.encodings))


def did(before: Translation, after: Translation) -> dict[str, int]:
    """Differences of two translations, counted; what did not change is left out."""
    counts = Counter[str]()
    if before.moves != after.moves:
        counts += _tensors(before, after)
    for attribute, what in _MAPPINGS.items():
        counts += _keys(getattr(before, attribute), getattr(after, attribute), what)
    if after.steps and not before.steps:
        counts += Counter(_DEEDS[step.fidelity.value] for step in after.steps)
        counts["with_importance"] = sum(step.importance is not None for step in after.steps)
    if after.layout is not None and before.layout is None:
        counts["files_written"] = len(after.layout.files)
    lost = len(after.losses) - len(before.losses)
    counts["losses" if lost > 0 else "losses_taken_back"] = abs(lost)
    return {what: number for what, number in counts.items() if number}


_DEEDS = {"copy": "copied", "repack": "repacked", "round": "rounded"}


def _tensors(before: Translation, after: Translation) -> Counter[str]:
    """What happened to tensors: told apart by the stored tensors that they are made of."""
    given, made = ({move.name: move for move in said.moves} for said in (before, after))
    readers: dict[str, list[str]] = {}
    for move in before.moves:
        for leaf in leaves(move):
            readers.setdefault(leaf, []).append(move.name)
    origins = {name: {other for leaf in leaves(move) for other in readers.get(leaf, ())} for name, move in made.items()}
    heirs = Counter(origin for found in origins.values() for origin in found)
    counts = Counter[str]()
    for name, move in made.items():
        if name in given and origins[name] == {name}:
            counts += _change(given[name], move, heirs)
        elif not origins[name]:
            counts["added"] += 1
        elif len(origins[name]) > 1:
            counts["stacked" if len(move.shape) > 2 else "joined"] += 1
        else:
            origin = next(iter(origins[name]))
            counts["split" if heirs[origin] > 1 else "renamed"] += 1
            counts += _change(given[origin], move, heirs)
    sources = {id(source) for move in after.moves for leaf in move.inputs for source in leaf.sources.values()}
    counts["left_out"] = sum(name not in heirs and not _sources(move) & sources for name, move in given.items())
    if len(given) == len(made) and "left_out" not in +counts:
        places = zip(before.moves, after.moves, strict=True)
        counts["placed_elsewhere"] = sum(not set(leaves(one)) & set(leaves(other)) for one, other in places)
    return counts


def _change(old: Move, new: Move, heirs: Counter[str]) -> Counter[str]:
    """What became of the values of one tensor."""
    if heirs[old.name] > 1:  # a part of it
        return Counter()
    changed = _deeds(old) != _deeds(new)
    folded = any(len(a.sources) != len(b.sources) for a, b in zip(old.inputs, new.inputs, strict=False))
    return Counter({"values_moved": int(changed), "folded": int(folded), "reshaped": int(old.shape != new.shape)})


def _deeds(move: Move) -> str:
    """What is done to the stored tensors, whatever they are called."""
    return move.values.mapped(lambda tensor: replace(tensor, name="")).explain()


def _sources(move: Move) -> set[int]:
    return {id(source) for leaf in move.inputs for source in leaf.sources.values()}


def leaves(move: Move) -> tuple[str, ...]:
    """Names of the stored tensors that a move reads."""
    return tuple(tensor.name for tensor in move.inputs)


def _keys(before: Mapping[str, object], after: Mapping[str, object], what: str) -> Counter[str]:
    if before is after:
        return Counter()
    same = before.keys() & after.keys()
    return Counter(
        {
            f"{what}_added": len(after.keys() - before.keys()),
            f"{what}_changed": sum(before[key] != after[key] for key in same),
            f"{what}_removed": len(before.keys() - after.keys()),
        }
    )
