"""The recipe that the short form of `requant merge` means, as YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from requant.merging.layers import layer_list, layers_left, student_layers
from requant.merging.methods import METHODS
from requant.merging.methods.method import Base, Method
from requant.merging.modules import main_stack, stacks_of
from requant.merging.recipe import Recipe, recipes_from

#: What cuts one model to some of its layers.
_CUTS = ("keep_layers", "drop_layers", "student")
#: What speaks of several models, or of a method.
_OF_MERGES = ("base", "weight", "density", "t", "parameters", "dtype", "tokenizer")


def recipe_text(models: Sequence[str], short: Mapping[str, Any], names: Sequence[str]) -> str:
    """YAML for models and options that stand for a recipe. names: of the model's tensors, where there is but one."""
    if len(models) != 1 and any(short[name] is not None for name in _CUTS):
        raise click.UsageError("--keep-layers, --drop-layers and --student take one model and no --method")
    stacks, main = stacks_of(names), main_stack(names)
    layers = _layers(short, stacks.get(main or "", 0))
    document: dict[str, Any]
    if layers is not None:
        if short["method"]:
            raise click.UsageError("--keep-layers, --drop-layers and --student take one model and no --method")
        idle = [name for name in _OF_MERGES if short[name] not in (None, ())]
        if idle:
            option = "param" if idle[0] == "parameters" else idle[0]
            raise click.UsageError(f"--{option} says nothing of a model that is only cut to some of its layers")
        slices = {"slices": _slices(models[0], layers)}
        # of a model that sees or hears the layers of the text model are meant, and the others stay
        document = {"merge_method": "passthrough"}
        return _yaml(document | ({"modules": {main: slices}} if len(stacks) > 1 else slices))
    method = short["method"] or ("passthrough" if len(models) == 1 else None)
    if method is None:
        raise click.UsageError(f"--method is missing: {', '.join(METHODS)}")
    document = {"merge_method": method}
    known = METHODS.get(method)
    if known is not None:
        _refuse_unknown(known, short)
    base = short["base"] or (models[0] if known is not None and known.base is Base.REQUIRED else None)
    if base:
        document["base_model"] = base
    document["models"] = _models(models, base, short)
    shared = dict(_pair(text) for text in short["parameters"])
    if short["t"] is not None:
        points = _numbers("t", short["t"])
        shared["t"] = points if len(points) > 1 else points[0]
    document |= {"parameters": shared} if shared else {}
    document |= {
        key: short[name] for key, name in (("dtype", "dtype"), ("tokenizer_source", "tokenizer")) if short[name]
    }
    return _yaml(document)


def merge_of_one(model: str) -> tuple[Recipe, ...]:
    """A recipe that makes of one model, perhaps with an adapter on it, itself."""
    document = {"merge_method": "passthrough", "models": [{"model": model}]}
    return recipes_from(_yaml(document), "the command line")


def _refuse_unknown(method: Method, short: Mapping[str, Any]) -> None:
    """`UsageError` for what the method does not heed."""
    heeded = [parameter.name for parameter in method.parameters if parameter.name not in method.idle]
    named = {name: f"--{name}" for name in ("weight", "density", "t") if short[name] is not None}
    for name, option in (named | {_pair(text)[0]: f"--param {text}" for text in short["parameters"]}).items():
        if name not in heeded and any(other.parameter(name) for other in METHODS.values()):
            taken = ", ".join(heeded) or "no parameters"
            raise click.UsageError(f"{option} says nothing to {method.name}, which takes {taken}")


def _models(models: Sequence[str], base: str | None, short: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each model with its own parameters; `base` takes none of them."""
    found: list[dict[str, Any]] = [{"model": model} for model in models]
    others = [entry for entry in found if entry["model"] != base]
    for name in ("weight", "density"):
        values = _numbers(name, short[name]) if short[name] is not None else []
        if len(values) not in (0, 1, len(others)):
            raise click.UsageError(f"--{name} has {len(values)} values for {len(others)} models")
        for entry, value in zip(others, values * len(others) if len(values) == 1 else values, strict=False):
            entry.setdefault("parameters", {})[name] = value
    return found


def _layers(short: Mapping[str, Any], count: int) -> tuple[int, ...] | None:
    """The layers that one model is cut to, if an option says so."""
    given = [name for name in _CUTS if short[name] is not None]
    if len(given) > 1:
        raise click.UsageError("--keep-layers, --drop-layers and --student cannot be used together")
    if short["mapping"] is not None and short["student"] is None:
        raise click.UsageError("--mapping goes with --student")
    if not given:
        return None
    if short["student"] is not None:
        return student_layers(count, short["student"], short["mapping"] or "uniform")
    if short["keep_layers"] is not None:
        return layer_list(short["keep_layers"], count, "--keep-layers")
    kept = layers_left(short["drop_layers"], count, "--drop-layers", keeps=False)
    if not kept:
        raise click.UsageError("--drop-layers leaves no layer")
    return kept


def _slices(model: str, layers: Sequence[int]) -> list[dict[str, Any]]:
    """Stretches of layers that follow each other."""
    ranges: list[list[int]] = []
    for layer in layers:
        if ranges and ranges[-1][1] == layer:
            ranges[-1][1] += 1
        else:
            ranges.append([layer, layer + 1])
    return [{"sources": [{"model": model, "layer_range": ends}]} for ends in ranges]


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number, nor several with commas", param_hint=f"--{name}") from None


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--param")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _yaml(document: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(document), sort_keys=False, default_flow_style=None, allow_unicode=True)
    return text
