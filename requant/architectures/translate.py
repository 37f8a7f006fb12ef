"""A checkpoint said in the other naming: part by part, each a pass of planning or one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from requant.architectures.names import MissingTensor
from requant.architectures.rules import Family
from requant.errors import PlanError, UnsupportedError
from requant.ir import Checkpoint, Naming, Tensor
from requant.plan import Translation, unchanged


class Part(Enum):
    """What of a checkpoint is said in the other naming; each needs those before it."""

    FAMILY = "family"
    SIZES = "hyperparameters"
    NAMES = "names"
    BESIDES = "besides"
    CLAIM = "leftovers"
    GENERAL = "general"


def _function(naming: Naming, part: Part) -> Callable[[Translation], Translation]:
    """What says a part but the family in `naming`; no conversion needs those of the other direction."""
    if naming is Naming.GGML:
        from requant.architectures import to_ggml

        return {
            Part.SIZES: to_ggml.sized,
            Part.NAMES: to_ggml.named,
            Part.BESIDES: to_ggml.completed,
            Part.CLAIM: to_ggml.claimed,
            Part.GENERAL: to_ggml.described,
        }[part]
    from requant.architectures import to_hf

    return {
        Part.SIZES: to_hf.sized,
        Part.NAMES: to_hf.named,
        Part.BESIDES: to_hf.completed,
        Part.CLAIM: to_hf.claimed,
        Part.GENERAL: to_hf.described,
    }[part]


def _recognizer(naming: Naming) -> Callable[[Translation, Sequence[Family]], Translation]:
    """What finds the family."""
    if naming is Naming.GGML:
        from requant.architectures import to_ggml

        return to_ggml.recognized
    from requant.architectures import to_hf

    return to_hf.recognized


def translate(checkpoint: Checkpoint[Tensor], naming: Naming, families: Sequence[Family]) -> Translation:
    """Names, row orders, hyperparameters and general metadata of `checkpoint` in `naming`; tokenizers are left out.

    Raises `UnsupportedError` for an unknown architecture, `PlanError` for whatever contradicts it. A checkpoint that
    has this naming already is passed on as it is.
    """
    said = unchanged(checkpoint)
    for part in Part if checkpoint.naming is not naming else ():
        said = translated(said, naming, part, families)
    return said


def translated(said: Translation, naming: Naming, part: Part, families: Sequence[Family]) -> Translation:
    """`said` with one part of it in `naming`; raises as `translate` does."""
    with _naming_the_model(said):
        if part is not Part.FAMILY:
            return _function(naming, part)(said)
        return _recognizer(naming)(said, families)


@contextmanager
def _naming_the_model(said: Translation) -> Iterator[None]:
    """Errors say which model they are of, and as what it is read where config.json says something unknown."""
    try:
        yield
    except (PlanError, UnsupportedError) as error:
        told, path = error, said.source.path
        if said.model is not None and said.model.unknown_class:
            kind = said.model.family.classes[0]
            unknown = f"config.json names the class {said.model.unknown_class}, which is not known"
            told = UnsupportedError(f"{unknown}; as a {kind}, {error}")
        if path != Path():
            files = said.source.missing_hint if isinstance(told, MissingTensor) else ""
            told = type(told)(f"{path}: {told}", hint=files or told.hint)
        if told is error:
            raise
        raise told from error
