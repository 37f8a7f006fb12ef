"""Every recipe gives every tensor the type that llama.cpp's own llama-quantize gives it.

The goldens are the program's answers (see fixtures/recipes/make.py), for models of many shapes, with and without an
importance matrix, and with its options.
"""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from requant.encodings import BLOCKS, DENSE
from requant.errors import PlanError
from requant.importance import Importance, Measured
from requant.ir import Typed
from requant.recipes import (
    Facts,
    Overrides,
    Wanted,
    choose_encodings,
    encoding_named,
    layers_to_prune,
    overridden,
    override_kv,
    pruned_metadata,
    pruned_names,
    recipe_named,
    tensor_type,
)

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("fixtures/recipes/types.json").read_text())
MODELS = GOLDEN["models"]
RECIPES = list(MODELS["gqa"]["types"])
ONE_ENTRY = {"blk.0.attn_v.weight": Measured(np.ones((1, 256), np.float32), np.ones(1, np.int64))}


def typed(value):
    if isinstance(value, list):
        return Typed("[u32]", value)
    return Typed({bool: "bool", int: "u32", float: "f32"}[type(value)], value)


@cache
def model(label):
    golden = MODELS[label]
    layers = golden["metadata"][f"{golden['architecture']}.block_count"]
    tensors = []
    for pattern, (kind, *shape) in golden["tensors"].items():
        names = [pattern.replace("*", str(layer)) for layer in range(layers)] if "*" in pattern else [pattern]
        tensors += [Wanted(name, tuple(shape), BLOCKS[kind] if kind in BLOCKS else DENSE[kind]) for name in names]
    return tensors, Facts(golden["architecture"], {key: typed(value) for key, value in golden["metadata"].items()})


def by_kind(name):
    return re.sub(r"\d+", "#", name), [int(number) for number in re.findall(r"\d+", name)]


def unpacked(text, names):
    types = [label for run in text.split(", ") for label in [run.split()[1]] * int(run.split()[0])]
    return dict(zip(sorted(names, key=by_kind), types, strict=True))


@pytest.mark.parametrize("label", MODELS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_type_is_llama_quantizes(label, recipe):
    tensors, facts = model(label)
    goldens = MODELS[label]["types"][recipe]
    for importance, golden in ((None, goldens[0]), (Importance(ONE_ENTRY), goldens[-1])):
        if golden is None:
            with pytest.raises(PlanError, match="nothing is near enough"):
                choose_encodings(recipe_named(recipe), tensors, facts, importance=importance)
            continue
        choices = choose_encodings(recipe_named(recipe), tensors, facts, importance=importance)
        ours = {tensor.name: choice.encoding.label for tensor, choice in zip(tensors, choices, strict=True)}
        assert ours == unpacked(golden, ours)


def options_as_values(options, tensors, facts):
    """What the command line makes of options, for the goldens that have some."""
    overrides, metadata = {"tensor_types": ()}, dict(facts.metadata)
    words = iter(options)
    for word in words:
        match word:
            case "--pure":
                overrides["pure"] = True
            case "--leave-output-tensor":
                overrides["quantize_output"] = False
            case "--output-tensor-type":
                overrides["output"] = encoding_named(next(words))
            case "--token-embedding-type":
                overrides["token_embedding"] = encoding_named(next(words))
            case "--tensor-type":
                overrides["tensor_types"] += (tensor_type(next(words)),)
            case "--override-kv":
                metadata = overridden(metadata, [override_kv(next(words))])
            case "--prune-layers":
                layers = layers_to_prune(next(words))
                assert pruned_metadata(metadata, facts.architecture, layers)  # llama.cpp chooses by the old count
                # llama-quantize passes over layers that are not there, which requant refuses
                there = {int(tensor.name.split(".")[1]) for tensor in tensors if tensor.name.startswith("blk.")}
                names = pruned_names([tensor.name for tensor in tensors], sorted(there.intersection(layers)))
                tensors = [Wanted(names[t.name], t.shape, t.encoding) for t in tensors if t.name in names]
    return tensors, Facts(facts.architecture, metadata), Overrides(**overrides)


@pytest.mark.parametrize(("label", "recipe", "options", "golden"), GOLDEN["options"])
def test_options_do_what_they_do_in_llama_quantize(label, recipe, options, golden):
    tensors, facts, overrides = options_as_values(options, *model(label))
    choices = choose_encodings(recipe_named(recipe), tensors, facts, overrides)
    ours = {tensor.name: choice.encoding.label for tensor, choice in zip(tensors, choices, strict=True)}
    assert len(ours) == golden["names"]
    assert ours == unpacked(golden["types"], ours)


def test_a_choice_is_told_as_a_loss_exactly_when_it_is_not_what_was_asked():
    tensors, facts = model("odd")
    for recipe in RECIPES:
        if MODELS["odd"]["types"][recipe][0] is None:
            continue
        for tensor, choice in zip(tensors, choose_encodings(recipe_named(recipe), tensors, facts), strict=True):
            columns = tensor.shape[-1]
            assert (choice.asked is None) == (choice.loss(tensor.name) is None)
            if choice.asked is not None:
                assert choice.asked != choice.encoding
                assert re.search(rf"rows of {columns} are no multiple of \d+", choice.loss(tensor.name).detail)
