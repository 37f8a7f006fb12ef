"""What types can be chosen for, and which those are: blocks of GGUF, and integers of MLX, compressed-tensors, GPTQ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from requant.encodings import BLOCKS, Blocks, Encoding
from requant.encodings.compressed import Packed
from requant.encodings.gptq import Gptq
from requant.encodings.mlx import MlxAffine
from requant.errors import PlanError
from requant.importance import Measured
from requant.ir import Naming
from requant.operations.renamed_statistics import in_names_of
from requant.plan import Plan, Step
from requant.recipes import Recipe, encoding_named, gptq_types
from requant.recipes.importances import needs_importance
from requant.recipes.mlx_types import BITS
from requant.statistics import Statistics, fingerprint, noise_of

#: What is tried where the user names no types. Blocks of 32 need more bits, and lose less where inputs of very
#: different sizes would be rounded together.
_SUPER: Final = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K", "IQ4_XS", "Q4_K")
_LARGE: Final = ("Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1")
_SMALL: Final = ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


class Kind(ABC):
    """One of them."""

    @abstractmethod
    def is_free(self, step: Step) -> bool:
        """Whether the recipe rounds it to a type that could be another."""

    @abstractmethod
    def candidates(self, step: Step, types: tuple[str, ...], statistics: Statistics) -> list[Encoding]:
        """The types that a tensor may get; `types` are the user's, none for all."""

    def noise(self, encoding: Encoding, measured: Measured | None) -> float:
        """What it costs that inputs are rounded before they are multiplied; nothing, unless a kind says otherwise."""
        return 0.0

    @abstractmethod
    def word(self, encoding: Encoding) -> str:
        """A type as `--tensor-type` reads it."""

    @abstractmethod
    def statistics(self, plan: Plan, statistics: Statistics) -> Statistics:
        """By the names and rows of the plan's tensors. Raises `PlanError` for those of another model."""


@dataclass(frozen=True, slots=True)
class GgufTypes(Kind):
    """recipe: what is not chosen follows it."""

    recipe: Recipe

    def is_free(self, step: Step) -> bool:
        """What becomes blocks."""
        return isinstance(step.target.encoding, Blocks)

    def candidates(self, step: Step, types: tuple[str, ...], statistics: Statistics) -> list[Encoding]:
        """Some are not made without importance data, which embeddings have none of."""
        name, columns = step.target.name, step.target.shape[-1]
        named = types or ((*_SUPER, *_LARGE) if columns % 256 == 0 else _SMALL)
        if strange := [one for one in named if one not in BLOCKS]:
            raise PlanError(f"--types: {strange[0]} is no type of blocks", hint="such as Q4_K, Q5_K or IQ4_XS")
        fitting: list[Encoding] = [BLOCKS[one] for one in named if columns % BLOCKS[one].values == 0]
        if statistics.importance.weights_for(name, step.target.shape) is None:
            fitting = [one for one in fitting if not needs_importance(name, one, self.recipe)]
        if not fitting:
            raise PlanError(f"{name}: none of the types fits rows of {columns}", hint="--types Q4_0,Q8_0")
        return fitting

    def noise(self, encoding: Encoding, measured: Measured | None) -> float:
        """Of llama.cpp."""
        return 0.0 if measured is None else noise_of(measured, encoding)

    def word(self, encoding: Encoding) -> str:
        """Its label."""
        return encoding.label

    def statistics(self, plan: Plan, statistics: Statistics) -> Statistics:
        """They have these names already."""
        if fingerprint((step.target.name, step.target.shape) for step in plan.steps) != statistics.provenance.model:
            raise _of_another()
        return statistics


class Folder(Kind):
    """What becomes a Hugging Face folder."""

    def statistics(self, plan: Plan, statistics: Statistics) -> Statistics:
        """As Hugging Face names them."""
        said = plan.passes[-1].after
        if said.source.naming is Naming.GGML:
            tensors = [(tensor.name, tensor.shape) for tensor in said.source.tensors]
        else:
            from requant.architectures import translate

            tensors = [(move.name, move.shape) for move in translate(said.source, Naming.GGML).moves]
        if fingerprint(tensors) != statistics.provenance.model:
            raise _of_another()
        return in_names_of(said, statistics)


@dataclass(frozen=True, slots=True)
class MlxTypes(Folder):
    """main: what most modules become; the others differ from it in bits alone."""

    main: MlxAffine

    def is_free(self, step: Step) -> bool:
        """What becomes such integers; a family's own choice for its routers stays."""
        encoding = step.target.encoding
        return isinstance(encoding, MlxAffine) and (encoding.bits, encoding.group) == (self.main.bits, self.main.group)

    def candidates(self, step: Step, types: tuple[str, ...], statistics: Statistics) -> list[Encoding]:
        """Every width; the user's are numbers of bits."""
        encoding = step.target.encoding
        assert isinstance(encoding, MlxAffine)
        return [replace(encoding, bits=bits) for bits in _chosen({f"MLX-{bits}": bits for bits in BITS}, types)]

    def word(self, encoding: Encoding) -> str:
        """Bits and group."""
        assert isinstance(encoding, MlxAffine)
        return f"MLX-{encoding.bits}-{encoding.group}"


@dataclass(frozen=True, slots=True)
class PackedTypes(Folder):
    """bits, group, symmetric: of what most layers become; the others differ from it in bits alone."""

    bits: int
    group: int
    symmetric: bool

    def is_free(self, step: Step) -> bool:
        """What becomes such integers."""
        one = step.target.encoding
        own = (self.bits, self.group, self.symmetric)
        return isinstance(one, Packed) and (one.bits, one.group, one.symmetric) == own

    def candidates(self, step: Step, types: tuple[str, ...], statistics: Statistics) -> list[Encoding]:
        """The widths that kernels take."""
        encoding = step.target.encoding
        assert isinstance(encoding, Packed)
        return [replace(encoding, bits=bits) for bits in _chosen({"W4A16": 4, "W8A16": 8}, types)]

    def word(self, encoding: Encoding) -> str:
        """Bits and group."""
        assert isinstance(encoding, Packed)
        return f"W{encoding.bits}A16-{encoding.group}{'' if encoding.symmetric else '-ASYM'}"


@dataclass(frozen=True, slots=True)
class GptqTypes(Folder):
    """bits, group: of what most layers become; the others differ from it in bits alone."""

    bits: int
    group: int

    def is_free(self, step: Step) -> bool:
        """What becomes such integers."""
        one = step.target.encoding
        return isinstance(one, Gptq) and (one.bits, one.group) == (self.bits, self.group)

    def candidates(self, step: Step, types: tuple[str, ...], statistics: Statistics) -> list[Encoding]:
        """The widths that kernels take."""
        encoding = step.target.encoding
        assert isinstance(encoding, Gptq)
        widths = {f"GPTQ-{bits}": bits for bits in gptq_types.BITS}
        return [replace(encoding, bits=bits) for bits in _chosen(widths, types)]

    def word(self, encoding: Encoding) -> str:
        """Bits and group."""
        assert isinstance(encoding, Gptq)
        return f"GPTQ-{encoding.bits}-{encoding.group}"


def _chosen(known: Mapping[str, int], types: tuple[str, ...]) -> list[int]:
    """Of the types that there are, those that the user names; none are all."""
    strange = [name for name in types if name not in known]
    if strange:
        raise PlanError(f"--types: {strange[0]} is none that these layers can have", hint=", ".join(known))
    return [bits for name, bits in known.items() if not types or name in types]


def _of_another() -> PlanError:
    return PlanError(
        "the statistics are of a model with other tensors than this one",
        hint="calibrate this model; `requant inspect` tells what each consists of",
    )


def kind_for(recipe: str, naming: Naming) -> Kind:
    """What types there are to choose from; `PlanError` for what has one type for all tensors."""
    from requant.passes.recipe import ggml_recipe
    from requant.schemes import scheme_named
    from requant.schemes.compressed import IntegerWeights
    from requant.schemes.gptq import GptqScheme
    from requant.schemes.mlx import MlxScheme

    if naming is Naming.GGML:
        return GgufTypes(ggml_recipe(recipe))
    scheme = scheme_named(recipe)
    if isinstance(scheme, IntegerWeights):
        return PackedTypes(scheme.bits, scheme.group, scheme.symmetric)
    if isinstance(scheme, MlxScheme) and scheme.high is None and isinstance(scheme.main, MlxAffine):
        return MlxTypes(scheme.main)
    if isinstance(scheme, GptqScheme):
        if scheme.bits is None or scheme.group is None:
            raise PlanError("a target needs the groups that layers have, and the bits of most", hint="--to GPTQ-4-128")
        return GptqTypes(scheme.bits, scheme.group)
    raise PlanError(
        "types are chosen for the tensors of a GGUF, and for the layers of MLX, compressed-tensors and GPTQ",
        hint="let the destination's name end in .gguf, or --to MLX-4, W4A16-64 or GPTQ-4-128",
    )


def type_named(word: str) -> str:
    """A type of blocks by its label, and one of folders by its name; `PlanError` for what is none."""
    name = word.strip()
    if name.upper().startswith(("MLX-", "W4A16", "W8A16", "GPTQ-")):
        return name.upper()
    encoding = encoding_named(name)
    if not isinstance(encoding, Blocks):
        raise PlanError(f"--types: {encoding.label} is no type of blocks", hint="such as Q4_K, Q5_K or IQ4_XS")
    return encoding.label
