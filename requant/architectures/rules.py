"""The language of a model family: a line for each tensor and each hyperparameter, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from requant.encodings import BF16, Dense
from requant.ir import Checkpoint, Json, Tensor, Typed
from requant.losses import Loss
from requant.plan import Move
from requant.sources import Source

if TYPE_CHECKING:
    from requant.architectures.changes import Change
    from requant.architectures.classifier import Classifier

#: A flat config.json (multimodal `text_config` merged), or GGUF keys without the architecture's prefix.
Config = Mapping[str, Json]
#: Sizes by name: `hidden`, `heads`, `q`, `ffn`, … (see `requant.architectures.sizes`).
Sizes = Mapping[str, int]
#: What a model has and what it has not, by name: of the whole model, or of each of its layers.
Flags = Mapping[str, bool | Sequence[bool]]
#: Computes a value that is not written down from those that are.
Default = Callable[[Config], Json]


#: Why tensors are left out that a projector is made of.
MMPROJ: Final = "what sees or hears: llama.cpp keeps it in a file of its own (mmproj)"


def always(value: Json) -> Default:
    """The default that is the same for every model; `always(None)` makes a key optional."""
    return lambda config: value


def same_as(key: str) -> Default:
    """The default that equals another value."""
    return lambda config: config.get(key)


def four_times(key: str) -> Default:
    """The default of a network's width that nothing says: four times another."""

    def width(config: Config) -> Json:
        value = config.get(key)
        return 4 * value if isinstance(value, int) else None

    return width


def unless_null(key: str, value: Json) -> Default:
    """The default of a key that config.json can also switch off by saying null."""
    return lambda config: None if key in config else value


def never(values: Config) -> bool:
    """What families claim whose GGUF becomes a model of another."""
    return False


class Order(Enum):
    """How the rows of a tensor differ between the namings."""

    SAME = "same"
    ROPE = "rope"  # each head's rotary halves are interleaved in ggml
    TRANSPOSED = "transposed"  # HF keeps [in, out]


@dataclass(frozen=True, slots=True)
class Apart:
    """What a tensor is called elsewhere, by another library or in transformers' memory, where it lies as in ggml.

    name: as `Rule.hf`; with `{e}`, the matrix of each expert. part, of: which of how many equal parts of the rows of
    each matrix it is: gate is the first half of `gate_up_proj`. loaded: transformers 5 loads files that have it so.
    """

    name: str
    part: int = 0
    of: int = 1
    loaded: bool = False


@dataclass(frozen=True, slots=True)
class Times:
    """By what ggml has rows multiplied: names of `Family.factors`, one after the other; of all rows, or of as many as
    the size says, behind those of the one before."""

    factors: tuple[str, ...]
    rows: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One tensor in both namings.

    hf: `{base}` stands for the family's prefix, `{n}` for the layer, `{e}` for the expert: one HF tensor of each expert
    is a matrix of the one ggml tensor. each: the size that counts them, where they are no experts. shape: sizes by
    name, as HF stores it. heads: the size that counts the heads of a tensor in rope order. turn: where the rows of one
    HF tensor are those of two ggml tensors in turn, whether this is the first (0) or the second (1), whose rule follows
    (with `among`, there may be more); the size that counts them is called `…_pair`. apart: what other libraries call it
    where they keep it as ggml does; with `{e}`, the matrix of each expert. add: ggml's values are HF's plus this. when:
    the flag without which there is no such tensor; with "!" before it, with which there is none. changes: what else
    lies between the two, in the order of the way to ggml, before `add`. flat: ggml's shape, where it is another shape
    of the same numbers (before each matrix is transposed, as `order` may have it). among: where HF has the rows of
    several ggml tensors in one, which `changes` put one after the other: the sizes of their rows; `turn` says which
    this is, `order` and `heads` are of its rows alone, and `flat` says as what stack of matrices (each transposed, as
    `order` has it) ggml sees them. optional: models of the family may have it or not, whatever else they say. times:
    what ggml's values are multiplied by, after all else; a GGUF does not say it, and becomes a model that multiplies by
    1.
    """

    hf: str
    ggml: str
    shape: tuple[str, ...]
    order: Order = Order.SAME
    heads: str = "heads"
    turn: int | None = None
    apart: tuple[Apart, ...] = ()
    add: float = 0.0
    when: str = ""
    each: str = "experts"
    changes: tuple[Change, ...] = ()
    flat: tuple[str, ...] = ()
    among: tuple[str, ...] = ()
    optional: bool = False
    times: tuple[Times, ...] = ()

    @property
    def ggml_shape(self) -> tuple[str, ...]:
        """Sizes by name, as ggml stores it; the stack of experts that are apart in HF is left out."""
        shape = self.flat or self.shape
        if self.order is Order.TRANSPOSED:
            shape = (*shape[:-2], shape[-1], shape[-2])
        if self.turn is None or self.flat:
            return shape
        if self.among:
            return (self.among[self.turn], *shape[1:])
        return tuple(name.removesuffix("_pair") for name in shape)

    def applies(self, flags: Flags, layer: int | None) -> bool:
        """Whether a model of these flags has the tensor (in this layer)."""
        return all(_holds(name, flags, layer) for name in self.when.split("+") if name)

    def may_apply(self, flags: Flags, layer: int | None) -> bool:
        """The same where only these flags are known."""
        names = [name for name in self.when.split("+") if name.removeprefix("!") in flags]
        return all(_holds(name, flags, layer) for name in names)

    @property
    def layered(self) -> bool:
        """Whether every layer has one."""
        return "{n}" in self.ggml


def module(
    hf: str, ggml: str, shape: tuple[str, ...], *, bias: bool = True, when: str = "", changes: tuple[Change, ...] = ()
) -> tuple[Rule, ...]:
    """A module's weight, and its bias where it has one, of the weight's rows. hf, ggml: up to the last dot."""
    weight = Rule(f"{hf}.weight", f"{ggml}.weight", shape, when=when, changes=changes)
    if not bias:
        return (weight,)
    return weight, Rule(f"{hf}.bias", f"{ggml}.bias", shape[:1], when=when, changes=changes)


def _holds(name: str, flags: Flags, layer: int | None) -> bool:
    flag = flags[name.removeprefix("!")]
    said = flag if isinstance(flag, bool) else layer is not None and flag[layer]
    return said != name.startswith("!")


@dataclass(frozen=True, slots=True)
class Key:
    """One hyperparameter in both namings.

    hf: key of config.json, with the names it also goes by; none if config.json does not say it. ggml: the GGUF key
    without the architecture (a key of the tokenizer, or of diffusion, is complete). kind: as GGUF has it; with "*", of
    the one value or of a list with one for each layer. default: what transformers takes
    when config.json lacks it (or what is written when it has no name there); without one it must be there. implied:
    what llama.cpp takes when the GGUF lacks it. A value of None is not written.
    """

    hf: tuple[str, ...]
    ggml: str
    kind: str
    default: Default | None = None
    implied: Default | None = None


def defaulting(keys: tuple[Key, ...], **defaults: Json) -> tuple[Key, ...]:
    """`keys`, some with what transformers' class of the family takes where config.json is silent."""
    return tuple(
        replace(key, default=always(defaults[key.hf[0]])) if key.hf and key.hf[0] in defaults else key for key in keys
    )


@dataclass(frozen=True, slots=True)
class Assumption:
    """A choice that config.json can make and llama.cpp has made.

    default: transformers' choice when config.json is silent. written: config.json gets the first of `values` on the
    way back. loss: set, another choice is a `Loss` with this text; not set, it is an error.
    """

    hf: str
    values: tuple[Json, ...]
    default: Json = None
    written: bool = True
    loss: str = ""


@dataclass(frozen=True, slots=True)
class Ignored:
    """HF tensors without a counterpart. pattern: a regular expression for the whole name (base included).

    lost: they hold weights, so leaving them out is a `Loss`; otherwise they can be computed again. behind: only those
    of layers behind the last that config.json counts.
    """

    pattern: str
    reason: str
    lost: bool = False
    behind: bool = False

    def has(self, name: str, layers: int) -> bool:
        """Whether a tensor of a model of so many layers is one."""
        if not re.fullmatch(self.pattern, name):
            return False
        number = re.search(r"\.(\d{1,9})\.", name)
        return not self.behind or (number is not None and int(number[1]) >= layers)


@dataclass(frozen=True, slots=True)
class ToGgml:
    """What a family adds on the way to ggml besides its tables; `used`: the HF tensors that went into `moves`."""

    values: Mapping[str, Typed] = field(default_factory=dict)
    tensors: tuple[Tensor, ...] = ()
    losses: tuple[Loss, ...] = ()
    moves: tuple[Move, ...] = ()
    used: frozenset[str] = frozenset()


def unsaid(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    """For an `Irregular` of which only the way back says something."""
    return ToGgml()


@dataclass(frozen=True, slots=True)
class ToHf:
    """What a family adds on the way to HF: config values, files, and the keys and tensors it has read for them."""

    config: Mapping[str, Json] = field(default_factory=dict)
    files: Mapping[str, Source] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    tensors: frozenset[str] = frozenset()
    moves: tuple[Move, ...] = ()


@dataclass(frozen=True, slots=True)
class Irregular:
    """A part of a family that is no table: a pair of functions, each the other's inverse.

    to_ggml(checkpoint, config, sizes); to_hf(keys without prefix, tensors by name, sizes). seeing: in place of `to_hf`
    where the model gets back what it sees with.
    """

    to_ggml: Callable[[Checkpoint[Tensor], Config, Sizes], ToGgml]
    to_hf: Callable[[Config, Mapping[str, Tensor], Sizes], ToHf]
    seeing: Callable[[Config, Mapping[str, Tensor], Sizes], ToHf] | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """One `model_type`: everything needed to say its checkpoints in the other naming.

    classes: transformers classes, the one written into config.json first. headless: those without an output head.
    bases: prefixes of the model's tensors in HF, the one that is written first. flags: config.json keys that decide
    whether rules apply, with transformers' defaults. present: flags that a checkpoint tells by having any tensor whose
    HF name ends in this (a regular expression). layers: flags of each layer, from GGUF keys. renamed: endings of HF
    names that very old checkpoints have, and what they are called now. claims: whether a GGUF of this architecture,
    given its keys, is this model_type. classifier: the classes that score texts instead of predicting tokens, if
    llama.cpp runs them.
    alone: the class and the model_type that a GGUF becomes, where `classes` are more than the text model that it has.
    half: the type of two bytes that the family is released in, or bears if it is released in F32. outgrows_f16: what
    it computes does not fit into F16, as its weights do. lacks: a ggml tensor without which a GGUF of an architecture
    that several share is of this model_type. besides: HF names, as in rules, of tensors that `irregular` parts read.
    suits: whether a config.json that names a class or model_type of several families is of this one.
    """

    model_type: str
    ggml: str
    classes: tuple[str, ...]
    headless: frozenset[str]
    bases: tuple[str, ...]
    rules: tuple[Rule, ...]
    keys: tuple[Key, ...]
    embedding: str
    assumptions: tuple[Assumption, ...] = ()
    flags: Mapping[str, bool] = field(default_factory=dict)
    present: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, Callable[[Config], Sequence[bool]]] = field(default_factory=dict)
    ignored: tuple[Ignored, ...] = ()
    irregular: tuple[Irregular, ...] = ()
    tied: bool = False
    upright: str = ""
    other_types: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    claims: Callable[[Config], bool] = lambda values: True
    classifier: Classifier | None = None
    alone: tuple[str, str] | None = None
    half: Dense = BF16
    outgrows_f16: bool = False
    lacks: str = ""
    besides: tuple[str, ...] = ()
    suits: Callable[[Config], bool] = lambda config: True
    factors: Callable[[Config], Mapping[str, float]] = lambda config: {}
    told: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def of_layers(self, values: Config) -> dict[str, Sequence[bool]]:
        """The flags of each layer; values: GGUF keys without prefix."""
        return {name: told(values) for name, told in self.layers.items()}

    def telling(self, names: Collection[str], layers: int, base: str | None) -> dict[str, Sequence[bool]]:
        """The flags that layers tell by their tensors; base: the prefix in HF, None for ggml's names."""
        found: dict[str, Sequence[bool]] = {}
        for flag, (hf, ggml) in self.told.items():
            template = ggml if base is None else hf
            found[flag] = [template.format(base=base, n=n) in names for n in range(layers)]
        return found

    def full_key(self, key: str) -> str:
        """A GGUF key as it stands in the file."""
        return key if key.startswith(("tokenizer.", "diffusion.", "xielu.")) else f"{self.ggml}.{key}"
