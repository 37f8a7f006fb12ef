"""Two models in the same words: the names, shapes and orders of rows of one naming, so that equals have one name.

A GGUF and a Hugging Face folder are compared as GGUFs are, or, where the folder cannot be said so, as folders are; two
of a kind keep their own words. Where neither way leads on, tensors are compared by the names that they are stored by.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from requant.architectures import family_of, joined, own_names
from requant.architectures.rules import Family
from requant.errors import Error, PlanError
from requant.expressions import Node
from requant.ir import PROJECTOR, Checkpoint, Json, Naming, Tensor, Typed
from requant.losses import Loss, LossKind
from requant.passes import Pass, made
from requant.passes.claim import Claim
from requant.passes.companions import DropScales, FoldScales
from requant.passes.gpt_oss_experts import as_parameters
from requant.passes.translation import translation
from requant.passes.unwrap import Unwrap
from requant.plan import Translation, unchanged
from requant.sources import Source


class Words(Enum):
    """In whose names two models are compared."""

    GGUF = "gguf"
    HF = "hf"
    STORED = "stored"  # each in its own, of which nothing is known in common


@dataclass(frozen=True, slots=True)
class Said:
    """A model in the words of the comparison.

    naming: of these words. translated: whether they are another naming's than the file's. moves: tensors by name.
    config, metadata, files: as in `Checkpoint`, in these words. left_out: tensors that have no place in them.
    dropped: keys of config.json or metadata that have none, and why. notes: what was strange on the way.
    """

    source: Checkpoint[Tensor]
    naming: Naming
    translated: bool
    moves: Mapping[str, Node]
    family: Family | None = None
    config: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Typed] = field(default_factory=dict)
    files: Mapping[str, Source] = field(default_factory=dict)
    left_out: tuple[Loss, ...] = ()
    dropped: tuple[Loss, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """Both in the same words. notes: what could not be said so, and why."""

    words: Words
    a: Said
    b: Said
    notes: tuple[str, ...] = ()


_WORDS: Final = {Naming.GGML: Words.GGUF, Naming.HF: Words.HF}


def in_common_words(a: Checkpoint[Tensor], b: Checkpoint[Tensor]) -> Pair:
    """Both models in the same words, as far as their families' tables reach; nothing that they lack is an error."""
    if a.naming is b.naming:
        return Pair(Words.GGUF, _own(a), _own(b)) if a.naming is Naming.GGML else _folders(a, b)
    refused: list[str] = []
    for naming in (Naming.GGML, Naming.HF):
        try:
            one, other = (_said_in(model, naming, beside) for model, beside in ((a, b), (b, a)))
        except Error as error:
            refused.append(f"not compared as {_KINDS[naming]}: {error}")
        else:
            return Pair(_WORDS[naming], one, other, tuple(refused))
    return Pair(Words.STORED, _own(a), _own(b), tuple(refused))


#: What models of a naming are.
_KINDS: Final = {Naming.GGML: "GGUFs are", Naming.HF: "folders are"}


def _said_in(source: Checkpoint[Tensor], naming: Naming, beside: Checkpoint[Tensor]) -> Said:
    """A model in one naming, its own or not. beside: the model that it is compared with."""
    if source.naming is naming:
        return _own(source)
    if naming is Naming.HF:
        passes: list[Pass] = [Claim(naming), FoldScales(), *translation(naming)]
    elif beside.architecture == PROJECTOR:
        from requant.passes.projector import Encoders, ProjectorGeneral

        passes = [Claim(naming), Unwrap(naming), Encoders(), ProjectorGeneral()]
    else:
        passes = [Claim(naming), Unwrap(naming), *translation(naming)]
    said, _ = made(passes, unchanged(source))
    return _of(said, source, naming)


def _own(source: Checkpoint[Tensor]) -> Said:
    """A model in its own words: scales of whole tensors inside their weights, and names without what trainers add."""
    first: Pass = FoldScales() if source.naming is Naming.GGML else Unwrap(Naming.HF)
    claim = Claim(source.naming, copied=True)
    try:
        said, _ = made([claim, first], unchanged(source))
    except Error as error:
        return replace(_of(unchanged(source), source, source.naming), notes=(str(error),))
    return _of(said, source, source.naming)


def _folders(a: Checkpoint[Tensor], b: Checkpoint[Tensor]) -> Pair:
    """Two folders by the names they have; or, where these are not the same, by those of their families; or, of two
    families with few names in common, as GGUFs."""
    own = Pair(Words.HF, _own(a), _own(b))
    one, other = own.a.moves, own.b.moves
    if set(one) == set(other) and all(one[name].shape == other[name].shape for name in one):
        return own
    found = [own]
    with suppress(Error):
        named = Pair(Words.HF, _by_family(own.a, a), _by_family(own.b, b))
        fewer = _apart(named) < _apart(own)
        turned = set(named.a.moves) == set(one)  # the same names, and matrices that may lie another way
        found = [named] if fewer or turned else found
    if 2 * _common(found[0]) < min(len(one), len(other)):
        with suppress(Error):
            found.append(Pair(Words.GGUF, _said_in(a, Naming.GGML, b), _said_in(b, Naming.GGML, a)))
    return max(found, key=_common)


def _common(pair: Pair) -> int:
    """How many names both have."""
    return len(pair.a.moves.keys() & pair.b.moves.keys())


def _apart(pair: Pair) -> int:
    """How many names only one has."""
    return len(pair.a.moves.keys() ^ pair.b.moves.keys())


def _by_family(said: Said, source: Checkpoint[Tensor]) -> Said:
    """A folder by the names that transformers loads: experts one by one, projections fused as the family has them."""

    def renamed(translation: Translation) -> Translation:
        moves = own_names(translation.moves, source.config, source.architecture, single=True)
        return replace(translation, moves=joined(as_parameters(moves), source.architecture))

    claimed, _ = made([Claim(Naming.HF, copied=True), Unwrap(Naming.HF)], unchanged(source))
    named = DropScales()(renamed(claimed))
    return replace(_of(named, source, Naming.HF), notes=said.notes)


def _of(said: Translation, source: Checkpoint[Tensor], naming: Naming) -> Said:
    family = said.model.family if said.model is not None else _family(source)
    kinds: dict[LossKind, list[Loss]] = {}
    for loss in said.losses:
        kinds.setdefault(loss.kind, []).append(loss)
    left_out, dropped = kinds.pop(LossKind.TENSOR_DROPPED, []), kinds.pop(LossKind.METADATA_DROPPED, [])
    return Said(
        source,
        naming,
        source.naming is not naming,
        _by_name(said),
        family,
        said.config,
        said.metadata,
        said.files,
        tuple(left_out),
        tuple(dropped),
        tuple(f"{loss.subject}: {loss.detail}" for losses in kinds.values() for loss in losses),
    )


def _by_name(said: Translation) -> dict[str, Node]:
    """Moves by name; one name for two tensors is a contradiction."""
    found: dict[str, Node] = {}
    for move in said.moves:
        if move.name in found:
            raise PlanError(f"{said.source.path}: two tensors would be {move.name!r}")
        found[move.name] = move.values
    return found


def _family(source: Checkpoint[Tensor]) -> Family | None:
    """The family, where it is known by what the file says."""
    try:
        return family_of(source)
    except Error:
        return None
