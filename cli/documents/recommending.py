"""What `recommend` says."""

from __future__ import annotations

from typing import Annotated, TypedDict

from requant.cli.documents.shared import Document


class RecommendRow(TypedDict):
    """A recipe, and what the model takes in it."""

    recipe: Annotated[str, "as `--to` takes it; `as it is` of a model that the runtime loads already"]
    weight_bytes: Annotated[int, "of all tensors"]
    bits_per_weight: Annotated[float, "of all tensors"]
    cache_bytes: Annotated[int, "of keys, values and states of all sequences"]
    buffer_bytes_estimate: Annotated[int, "the logits of one micro-batch"]
    total_bytes: Annotated[int, "the sum of these"]
    fits: Annotated[bool, "whether it is at most `usable_bytes`"]
    longest_context: Annotated[int, "tokens that fit, at most `trained_context`; 0 where none do"]
    tokens_per_second_at_most: Annotated[float, "of one sequence with an empty cache, by the bandwidth"]
    expected_kl: Annotated[float | None, "nats for each token, as measured on another model; null where nobody has"]
    with_importance: Annotated[bool, "whether the recipe needs an importance matrix, or loses much less with one"]
    substituted: Annotated[int, "tensors that cannot be stored as the recipe says"]


class RefusedRecipe(TypedDict):
    """A recipe that the model cannot be stored in."""

    recipe: Annotated[str, "as `--to` takes it"]
    why: Annotated[str, "in words"]


class RecommendDocument(Document):
    """`recommend`: recipes of a model for a device, and the one that fits and loses least."""

    model: Annotated[str, "as it was given"]
    runtime: Annotated[str, "what runs it"]
    device: Annotated[str, "on which"]
    memory_bytes: Annotated[int, "of the device"]
    usable_bytes: Annotated[int, "of them, that the runtime takes"]
    bandwidth: Annotated[float, "bytes a second of its memory"]
    context: Annotated[int, "tokens of a sequence"]
    trained_context: Annotated[int, "tokens that the model was trained with"]
    sequences: Annotated[int, "that are answered at the same time"]
    cache: Annotated[str, "the type of keys and values"]
    expected_kl_of: Annotated[str, "on what model `expected_kl` was measured, and how"]
    recommended: Annotated[str | None, "the recipe that fits and loses least; null where none fits"]
    commands: Annotated[list[str], "that make it"]
    commands_for_all_of_it: Annotated[list[str], "that make a mix of types for all of the memory; or none"]
    recipes: Annotated[list[RecommendRow], "the largest first"]
    refused: Annotated[list[RefusedRecipe], "recipes that the model cannot have"]
