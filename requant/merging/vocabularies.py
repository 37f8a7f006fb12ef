"""The tokenizers of all models of a recipe: whether they agree, and what the result's is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from requant.errors import PlanError
from requant.losses import Loss, LossKind
from requant.merging.model import Model
from requant.merging.recipe import Recipe
from requant.merging.reference import Reference
from requant.merging.vocabulary import FILE, Alignment, Vocabulary, differences, union
from requant.merging.vocabulary_rules import BASE, UNION, TokenizerRules, TokenRule
from requant.printable import printable
from requant.sources import Source, read

#: Tokens that a message names.
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Tokens:
    """files: of the result's tokenizer, where it is not the first model's. rows: of its embedding, 0 where that stays.

    alignment: how the rows of `models` become the result's; None where all are taken as they are.
    """

    files: Mapping[str, Source] = field(default_factory=dict)
    rows: int = 0
    alignment: Alignment | None = None
    models: tuple[Model, ...] = ()
    losses: tuple[Loss, ...] = ()


def tokens_of(recipe: Recipe, models: Sequence[Model]) -> Tokens:
    """What the recipe asks for; without a word on tokenizers, those of all models must be the same."""
    merged = [model for model in models if model.embedding is not None]
    if recipe.tokenizer is None and _are_one_file(merged):
        return Tokens()
    known: dict[bytes, Vocabulary] = {}
    found = [model.vocabulary(known) for model in merged]
    if recipe.tokenizer is None:
        _must_agree(recipe, merged, found)
        return Tokens()
    vocabularies = []
    for model, vocabulary in zip(merged, found, strict=True):
        if vocabulary is None:
            raise PlanError(
                f"{recipe.entry.file}: {model.label} has no tokenizer, and the recipe asks for one",
                hint="leave out tokenizer and tokenizer_source, or fetch its tokenizer.json",
            )
        vocabularies.append(vocabulary)
    return _aligned(recipe, recipe.tokenizer, merged, vocabularies)


def _are_one_file(models: Sequence[Model]) -> bool:
    """Whether all have the same tokenizer.json in every byte: mostly so, and then nobody need understand it."""
    if not all(FILE in model.files for model in models):
        return False
    return len({read(model.files[FILE]).tobytes() for model in models}) <= 1


def _must_agree(recipe: Recipe, models: Sequence[Model], found: Sequence[Vocabulary | None]) -> None:
    """The same rows must be the same tokens."""
    known = [(model, one) for model, one in zip(models, found, strict=True) if one is not None]
    for model, one in known[1:]:
        first_model, first = known[0]
        different = differences(first, one, min(first_model.rows, model.rows))
        if different:
            shown = ", ".join(repr(printable(text, 30)) for text in different[:_SHOWN])
            more = f" and {len(different) - _SHOWN:,} more" if len(different) > _SHOWN else ""
            raise PlanError(
                f"{recipe.entry.file}: the tokenizers of {first_model.label} and {model.label} differ in "
                f"{len(different):,} tokens: {shown}{more}; the same rows of their embeddings are not the same tokens",
                hint="say `tokenizer: {source: union}` in the recipe, or `base`, and every token gets its own row",
            )


def _aligned(
    recipe: Recipe, rules: TokenizerRules, models: Sequence[Model], vocabularies: Sequence[Vocabulary]
) -> Tokens:
    order = [model.reference for model in models]
    base = order.index(recipe.base) if recipe.base in order else None
    source = 0 if rules.source in (UNION, BASE) else _number(rules.source, order, recipe)
    result, count = vocabularies[source], models[source].rows
    others = [n for n in range(len(models)) if n != source] if rules.source == UNION else []
    result = union(result, [vocabularies[n] for n in others], [models[n].rows for n in others], list(rules.tokens))
    count = max(count, max(result.ids.values(), default=-1) + 1) if result is not vocabularies[source] else count
    if rules.multiple:
        count += -count % rules.multiple
    named = {text: (_rule_model(rule, order), rule) for text, rule in rules.tokens.items()}
    rows = tuple(model.rows for model in models)
    keeper = source if rules.source not in (UNION, BASE) else (0 if base is None else base)
    alignment = Alignment(tuple(vocabularies), rows, base, result.ids, count, named, keeper)
    losses = _told(result, vocabularies[source], models[source])
    return Tokens(result.files, count, alignment, tuple(models), losses)


def _told(result: Vocabulary, first: Vocabulary, model: Model) -> tuple[Loss, ...]:
    added = len(result.ids) - len(first.ids)
    if not added:
        return ()
    return (Loss(LossKind.TOKENIZER_CHANGED, "tokenizer.json", f"{added} tokens follow after those of {model.label}"),)


def _number(source: str | Reference, order: Sequence[Reference], recipe: Recipe) -> int:
    if source in order:
        return order.index(source)
    raise PlanError(f"{recipe.entry.file}: {source}, whose tokenizer is asked for, has no embedding")


def _rule_model(rule: TokenRule, order: Sequence[Reference]) -> int:
    return order.index(rule.model) if rule.model is not None and rule.model in order else -1
