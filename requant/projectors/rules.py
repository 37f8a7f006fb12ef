"""The language of a projector: that of a model family (`requant.architectures.rules`), with towers and their configs.

Keys of `Key.hf` are paths into config.json (`vision_config.hidden_size`); `preprocessor.…` is preprocessor_config.json
or processor_config.json. GGUF keys are without the `clip.` before them. Sizes in shapes may be numbers, sums and
products: `4*embd`, `q+kv+kv`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from requant.architectures.rules import Assumption, Config, Flags, Ignored, Key, Rule, Sizes, always
from requant.encodings import Shape
from requant.ir import Json

#: Sizes by name, from the GGUF keys without prefix, config.json by paths, and the shapes of the tensors by name.
Measure = Callable[[Config, Config, Mapping[str, Shape]], Sizes]
#: Types in which llama.cpp computes some tensors, whatever the others are: a pattern for the name in ggml, the type.
Forced = tuple[tuple[str, str], ...]

PREPROCESSOR: Final = "preprocessor."
#: Before a key that is written without `clip.`.
OUTSIDE: Final = "/"


def no_flags(config: Config) -> Flags:
    """Nothing depends on config.json."""
    return {}


def nothing_more(values: Config, shapes: Mapping[str, Shape]) -> Mapping[str, Json]:
    """All settings have a key of their own."""
    return {}


def processors(name: str, *, pictures: str = "") -> dict[str, Json]:
    """What preprocessor_config.json calls a model's processor, and that of pictures, if it is another model's."""
    return {
        f"{PREPROCESSOR}image_processor_type": f"{pictures or name}ImageProcessor",
        f"{PREPROCESSOR}processor_class": f"{name}Processor",
    }


@dataclass(frozen=True, slots=True)
class Folder:
    """A model of transformers, which a projector and the GGUF of a text model make together.

    texts: the architectures of such text models. name, model_type: its class, and what its config.json calls it.
    base: the prefix of the text model's tensors. spelled: patterns for the beginnings of names in rules, and what they
    are in files of this class. settings: of config.json, by paths, the same for every model. told: those that follow
    from the projector's keys (without `clip.`) and the shapes of its tensors by their names in rules; None takes away
    what a key says. tokens: settings that are the numbers of tokens, and the tokens. flags: see `Projector.flags`,
    where the tensors do not tell them.
    text_type: what `text_config` calls the text model, if not what its own config.json would. suits: whether it is
    this model, of the same as `told`.
    """

    texts: tuple[str, ...]
    name: str
    model_type: str
    base: str = "model.language_model."
    spelled: tuple[tuple[str, str], ...] = ()
    settings: Mapping[str, Json] = field(default_factory=dict)
    told: Callable[[Config, Mapping[str, Shape]], Mapping[str, Json]] = nothing_more
    tokens: Mapping[str, str] = field(default_factory=dict)
    flags: Flags = field(default_factory=dict)
    text_type: str = ""
    suits: Callable[[Config, Mapping[str, Shape]], bool] = lambda values, shapes: True


@dataclass(frozen=True, slots=True)
class Projector:
    """One converter of llama.cpp for projectors.

    name: as `requant families` lists it. classes: of config.json, or of its vision_config. kinds: the
    `clip.projector_type`s that it may write. sizes: what the rules' shapes are made of; `layers` and `audio_layers`
    count the blocks of the towers. renamed: patterns for parts of names of other spellings, and what they stand for.
    present: flags that a checkpoint tells by having a tensor of such a name. flags: those that config.json tells, of
    the whole or of each layer; rules may have `{k}` in their HF names, which counts the layers that have them.
    takes: whether a model of these classes is one that llama.cpp can see or hear with; the reason if it is not.
    ignored: its own tensors that llama.cpp does without. forced: see `Forced`. tokens: settings that are the numbers of
    tokens of the text model, and the tokens. folders: what it makes together with a text model, the way back.
    """

    name: str
    classes: tuple[str, ...]
    kinds: tuple[str, ...]
    keys: tuple[Key, ...]
    rules: tuple[Rule, ...]
    sizes: Measure
    renamed: tuple[tuple[str, str], ...] = ()
    present: Mapping[str, str] = field(default_factory=dict)
    flags: Callable[[Config], Flags] = no_flags
    takes: Callable[[Config], str] = lambda config: ""
    assumptions: tuple[Assumption, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    forced: Forced = ()
    tokens: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[Folder, ...] = ()

    @property
    def lost(self) -> tuple[str, ...]:
        """What is left out where a model has it, and why."""
        settings = [f"{item.hf}: {item.loss}" for item in self.assumptions if item.loss]
        return (*(item.reason for item in self.ignored if item.lost), *settings)


def written(ggml: str, kind: str, value: bool | int | float | str) -> Key:
    """A key that is the same for every model."""
    return Key((), ggml, kind, always(value))


def computed(ggml: str, kind: str, value: Callable[[Config], object]) -> Key:
    """A key that follows from several of config.json."""
    return Key((), ggml, kind, value)  # type: ignore[arg-type]


def linear(hf: str, ggml: str, shape: Sequence[str], bias: str | None = "") -> tuple[Rule, ...]:
    """A linear layer, or a convolution: weight and bias. bias: the flag without which there is none, None for never."""
    weight = Rule(f"{hf}.weight", f"{ggml}.weight", tuple(shape))
    return (weight,) if bias is None else (weight, Rule(f"{hf}.bias", f"{ggml}.bias", (shape[0],), when=bias))


def norm(hf: str, ggml: str, size: str = "embd", bias: str | None = "") -> tuple[Rule, ...]:
    """A norm: weight and bias."""
    return linear(hf, ggml, (size,), bias)


def split(hf: str, ggml: Sequence[str], among: Sequence[str], columns: str, bias: str | None = "") -> tuple[Rule, ...]:
    """A linear layer whose rows are those of several: fused q, k and v. hf: up to `.weight` and `.bias`."""
    rules = []
    for kind, rest in (("weight", (columns,)), ("bias", ())):
        if kind == "bias" and bias is None:
            continue
        when = bias if kind == "bias" and bias is not None else ""
        fused = "+".join(among)
        for turn, name in enumerate(ggml):
            rules.append(
                Rule(f"{hf}.{kind}", f"{name}.{kind}", (fused, *rest), turn=turn, among=tuple(among), when=when)
            )
    return tuple(rules)


def without(ggml: str, keys: tuple[Key, ...]) -> tuple[Key, ...]:
    """`keys` but for one, which is said otherwise."""
    return tuple(key for key in keys if key.ggml != ggml)
