"""Model families: HF and ggml names, row orders and hyperparameters, as invertible data: one file per family.

To add a family: one file with its rules and keys, one line in `index.TABLE`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from requant.architectures import index
from requant.architectures.around import inside
from requant.architectures.joined import joined as _joined
from requant.architectures.own_names import Kept
from requant.architectures.own_names import kept_as as _kept_as
from requant.architectures.own_names import own_names as _own_names
from requant.architectures.rules import Config, Family, Flags, Sizes
from requant.architectures.translate import Part
from requant.architectures.translate import translate as _translate
from requant.architectures.translate import translated as _translated
from requant.encodings import F16, Dense
from requant.ir import Checkpoint, Naming, Tensor, Typed
from requant.plan import Move, Translation, unchanged

if TYPE_CHECKING:
    #: Every family, as `index.TABLE` lists them.
    ARCHITECTURES: tuple[Family, ...]


#: To say a checkpoint in the other naming, its family must be known.
_OTHER = {Naming.HF: Naming.GGML, Naming.GGML: Naming.HF}


def __getattr__(name: str) -> tuple[Family, ...]:
    """All families are more than any conversion needs."""
    if name != "ARCHITECTURES":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return index.every()


def _candidates(source: Checkpoint[Tensor]) -> tuple[Family, ...]:
    """The families that a checkpoint may be of."""
    return index.named(_words(source.config, source.architecture))


def _words(config: Config, architecture: str) -> Iterable[str]:
    """What names the family of a checkpoint: classes and model types, or the architecture of a GGUF."""
    text = inside(config)
    config, architecture = (text, "") if text else (config, architecture)
    named = config.get("architectures")
    found = (*(named if isinstance(named, list) else ()), config.get("model_type"), architecture)
    return [word for word in found if isinstance(word, str)]


def translate(checkpoint: Checkpoint[Tensor], naming: Naming) -> Translation:
    """Names, row orders, hyperparameters and general metadata of `checkpoint` in `naming`; tokenizers are left out.

    No tensor is read but frequency factors and, where a tied head is stored twice, the two copies. Raises
    `UnsupportedError` for an unknown architecture and `PlanError` for whatever contradicts it, naming tensor or key.
    """
    return _translate(checkpoint, naming, _candidates(checkpoint))


def translated(said: Translation, naming: Naming, part: str) -> Translation:
    """`said` with one part of it, named as `Part` has it, in `naming`; what `translate` does, a part after another."""
    return _translated(said, naming, Part(part), _candidates(said.source))


def unfitting(checkpoint: Checkpoint[Tensor]) -> str:
    """The first thing in which keys, names and shapes of a GGUF are not what its family's table says; "" for nothing,
    and for families that are none of ours."""
    from requant.architectures.to_hf import unfitting as _unfitting

    return _unfitting(checkpoint, _candidates(checkpoint))


def family_of(source: Checkpoint[Tensor]) -> Family:
    """The family that a checkpoint is of, by class and model type, or by architecture and keys.

    Raises `UnsupportedError` where it is none of ours.
    """
    model = _translated(unchanged(source), _OTHER[source.naming], Part.FAMILY, _candidates(source)).known
    return model.family


def meaning_of(checkpoint: Checkpoint[Tensor]) -> tuple[dict[str, Typed], Sizes, Flags]:
    """What the configuration of an HF checkpoint says, however it is spelled: as GGUF keys, and for the family's table.

    Raises as `translate` does; whether tensors have the shapes that follow is not looked at.
    """
    said = unchanged(checkpoint)
    for part in (Part.FAMILY, Part.SIZES, Part.BESIDES):
        said = _translated(said, Naming.GGML, part, _candidates(checkpoint))
    return said.metadata, said.known.sizes, said.known.flags


def own_names(moves: Sequence[Move], config: Config, model_type: str, *, single: bool) -> tuple[Move, ...]:
    """`moves` of an HF checkpoint by the names that transformers loads.

    single: stacks of experts that transformers 5 loads as they are become single experts. Raises `UnsupportedError` for
    names of other libraries that no table has.
    """
    return _own_names(moves, config, _known(config, model_type), single=single)


def _known(config: Config, model_type: str) -> Family | None:
    """The family by class or model type, if it is one of ours."""
    named = config.get("architectures")
    classes = named if isinstance(named, list) else []
    types = (config.get("model_type"), model_type)
    families = [family for family in index.named(_words(config, model_type)) if family.suits(config)]
    by_class = (family for family in families if any(name in family.classes for name in classes))
    by_type = (family for family in families if {family.model_type, *family.other_types} & set(map(str, types)))
    return next(by_class, None) or next(by_type, None)


def kept_as(name: str, config: Config) -> tuple[Kept, ...]:
    """Where the files of a model of this config keep the tensor that transformers calls `name` in memory."""
    family = _known(config, "")
    return () if family is None else _kept_as(name, family)


def joined(moves: Sequence[Move], model_type: str) -> tuple[Move, ...]:
    """`moves` of an HF checkpoint, with layers that its family has fused, and its file split, as one again."""
    return _joined(moves, model_type, index.named([model_type]))


def half_of(model_type: str) -> Dense:
    """The type of two bytes that a family is released in; F16 for what is none of ours."""
    return next((family.half for family in index.named([model_type]) if family.model_type == model_type), F16)


def outgrows_f16(model_type: str) -> bool:
    """Whether a family computes numbers that F16 has not."""
    return any(family.outgrows_f16 for family in index.named([model_type]) if family.model_type == model_type)
