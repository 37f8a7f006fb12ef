"""The class that config.json names. It counts, not the model type alone: it decides what the last layer computes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from requant.architectures.around import inside, seen
from requant.architectures.rules import Config, Family
from requant.errors import UnsupportedError
from requant.losses import Loss, LossKind

#: Names of transformers' classes, and of classes like them, whose head is none that predicts tokens.
_OTHER_HEAD: Final = re.compile(
    r".*(For\w*(Classification|Reward\w*|QuestionAnswering|MultipleChoice|NextSentencePrediction|ImageModeling)"
    r"|RewardModel\w*|DoubleHeads\w*)"
)


@dataclass(frozen=True, slots=True)
class ModelClass:
    """What config.json says the model is.

    name: the class; empty if none is named. headless: it has no output head of its own. known: requant knows the
    class; otherwise only its model type is known, which `losses` tell.
    """

    family: Family
    name: str = ""
    headless: bool = False
    known: bool = True
    losses: tuple[Loss, ...] = ()


def class_of(config: Config, model_type: str, families: Sequence[Family]) -> ModelClass:
    """The family by class where a known one is given, else by model type.

    config: as it lies on disk, not that of its text model: what sees or hears around a llama has other names, and
    computes other things. What may see around any text model is read by what it says of that. Raises
    `UnsupportedError` for a class whose head has no place in the family's GGUF, and for model types of no family.
    """
    if text := inside(config):
        found = class_of(text, "", families)
        return replace(found, family=seen(found.family))
    named = config.get("architectures")
    classes = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    types = [name for name in (config.get("model_type"), model_type) if isinstance(name, str) and name]
    suited = [family for family in families if family.suits(config)]
    for name in classes:
        for family in suited:
            scores = family.classifier is not None and name in family.classifier.classes
            if scores or name in family.classes:
                told = _contradiction(family, name, types)
                return ModelClass(family, name, headless=scores or name in family.headless, losses=told)
    for kind in types:
        for family in suited:
            if kind == family.model_type or kind in family.other_types:
                if not classes:
                    return ModelClass(family)
                scoring = [name for other in families if other.classifier for name in other.classifier.classes]
                return _by_type(family, classes[0], config, scoring)
    shown = ", ".join([*classes, *dict.fromkeys(types)]) or "no architecture"
    raise unsupported(f"config.json says {shown}, which is not supported", families, lambda f: f.model_type)


def _contradiction(family: Family, name: str, types: Sequence[str]) -> tuple[Loss, ...]:
    """A model type that is not that of the class: the class counts, as it says what is computed."""
    other = [kind for kind in types[:1] if kind != family.model_type and kind not in family.other_types]
    detail = f"it is not that of the class {name}, which counts ({family.model_type})"
    return tuple(Loss(LossKind.SUSPECT, f"model_type {kind!r}", detail) for kind in other)


def _by_type(family: Family, name: str, config: Config, scoring: Sequence[str]) -> ModelClass:
    """A class that nobody knows, of a known model type."""
    if _OTHER_HEAD.fullmatch(name):
        raise UnsupportedError(
            f"config.json names the class {name}, whose head has no place in a GGUF of {family.ggml!r}",
            hint=f"classes with such a head that llama.cpp runs: {', '.join(scoring)}",
        )
    code = " with code of its own (auto_map)" if config.get("auto_map") else ""
    detail = f"the class {name}{code} is not known, and may compute something else than {family.classes[0]}"
    return ModelClass(family, name, known=False, losses=(Loss(LossKind.SUSPECT, "architectures", detail),))


def unsupported(what: str, families: Sequence[Family], name: Callable[[Family], str]) -> UnsupportedError:
    """The error for what is of no family."""
    return UnsupportedError(what, hint="supported: " + ", ".join(sorted({name(family) for family in families})))
