"""Several recipes in one pass over a model: `--to Q4_K_M,Q8_0`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from requant import system
from requant.cards import NAME as CARD
from requant.cli.destinations import MARK
from requant.cli.execution import (
    losses_text,
    plan_document,
    plan_text,
    receipt_document,
    refusal_of,
    refuse_losses,
    run_together,
)
from requant.cli.options import refuse_to_overwrite
from requant.cli.saying import failure, say_document
from requant.cli.tables import count, size, table
from requant.cli.terminal import say, width
from requant.cli.writing import RunOptions
from requant.errors import PlanError
from requant.execution import Options, Receipt, existing, peak_bytes
from requant.losses import LossKind
from requant.plan import Plan
from requant.printable import printable
from requant.recipes import ALIASES
from requant.together import input_bytes, together


@dataclass(frozen=True, slots=True)
class Planned:
    """One of several: the recipe as it is named, where it goes, and how."""

    recipe: str
    destination: Path
    plan: Plan


def names_of(recipes: str) -> tuple[str, ...]:
    """The names in `Q4_K_M,Q8_0`, in capitals, as destinations have them; raises `PlanError` for one given twice."""
    words = (word.strip().upper() for word in recipes.split(","))
    names = tuple(ALIASES.get(word, word) for word in words)
    twice = next((name for name in names if not name or names.count(name) > 1), None)
    if twice is not None:
        what = f"{twice} is given twice" if twice else "a name is missing"
        raise PlanError(f"--to {recipes!r}: {what}", hint="recipes are separated by commas: Q4_K_M,Q8_0")
    return names


def destination_for(destination: Path, recipe: str, stem: str, suffix: str) -> Path:
    """Where one of several goes: `{}` in the destination stands for the recipe; without it, it is a folder for all.

    stem, suffix: of the files in that folder.
    """
    if MARK in str(destination):
        return Path(str(destination).replace(MARK, recipe))
    if destination.suffix.lower() in (".gguf", ".safetensors"):
        told = destination.with_name(f"{destination.stem}-{MARK}{destination.suffix}")
        raise PlanError(f"{destination} is one file, and there are several recipes", hint=f"'{told}', or a folder")
    return destination / f"{stem}-{recipe}{suffix}"


def carry_out_several(
    names: Sequence[tuple[str, Path]],
    planned: Callable[[str, Path], Plan],
    how: RunOptions,
    added: Callable[[Sequence[str], Sequence[Plan]], Sequence[Plan]],
    *,
    measure: bool = False,
    tolerated: frozenset[LossKind] = frozenset(),
) -> None:
    """What `carry_out` does, for several recipes at once: all files appear, or none.

    names: recipes and destinations. planned: makes the plan of one. added: puts into plans, given recipes, what lies
    beside the models.
    """
    if how.explain or how.html is not None:
        raise PlanError("--explain and --html are of one recipe", hint="give --to one recipe")
    for _, destination in names:
        refuse_to_overwrite(destination, how.force or how.dry_run)
    plans = added(
        [recipe for recipe, _ in names],
        [replace(planned(recipe, destination), passes=()) for recipe, destination in names],
    )
    several = [Planned(*name, plan) for name, plan in zip(names, plans, strict=True)]
    together(plans)  # the same file twice is an error now
    if how.dry_run and how.as_json:
        _say_plans(several, how, tolerated)
    elif how.dry_run:
        say(_plans_text(several, how))
    for one in several:
        if how.fail_on_loss:
            refuse_losses(one.plan, tolerated)
    if how.dry_run:
        return
    if not how.force and (there := next(filter(None, map(existing, plans)), None)) is not None:
        raise PlanError(f"{there} exists", hint="--force replaces it")
    system.give_back_memory()
    receipts = run_together(
        plans,
        Options(how.workers, how.replace_nan, measure),
        how.quiet,
        overwrite=how.force,
        resume=how.resume,
        dask=how.dask,
    )
    if how.as_json:
        _say_receipts(several, receipts, steps=measure)
    elif not how.quiet:
        say((_errors_text(several, receipts) + "\n\n" if measure else "") + _receipts_text(several, receipts))


def _say_plans(several: Sequence[Planned], how: RunOptions, tolerated: frozenset[LossKind]) -> None:
    plans = [one.plan for one in several]
    documents = [
        {"recipe": one.recipe, "destination": str(one.destination), **plan_document(one.plan, how)} for one in several
    ]
    said: dict[str, object] = {"plans": documents, "bytes_read": input_bytes(plans)}
    said["bytes_written"] = sum(plan.layout.nbytes for plan in plans)
    refusals = (refusal_of(plan, tolerated) for plan in plans) if how.fail_on_loss else iter(())
    if (refusal := next(filter(None, refusals), None)) is not None:
        said["error"] = failure("PlanError", str(refusal), refusal.hint, refusal.exit_code)
    say_document("plans", said | {"peak_bytes": peak_bytes(plans[0], how.workers, *plans[1:])})


def _say_receipts(several: Sequence[Planned], receipts: Sequence[Receipt], *, steps: bool) -> None:
    documents = []
    for one, receipt in zip(several, receipts, strict=True):
        document = receipt_document(one.plan, receipt, steps=steps)
        documents.append({"recipe": one.recipe, "destination": str(one.destination), **document})
    said: dict[str, object] = {"receipts": documents, "seconds": round(receipts[0].seconds, 3)}
    said["bytes_read"] = receipts[0].bytes_read
    say_document("receipts", said | {"bytes_written": sum(one.plan.layout.nbytes for one in several)})


def _plans_text(several: Sequence[Planned], how: RunOptions) -> str:
    plans = [one.plan for one in several]
    head = (
        f"reads {size(input_bytes(plans))} once, writes {size(sum(plan.layout.nbytes for plan in plans))}\n"
        f"buffers take at most {size(peak_bytes(plans[0], how.workers, *plans[1:]))} with {how.workers} threads"
    )
    parts = [f"{one.recipe}\n{plan_text(one.plan, how.workers, every=how.tensors)}" for one in several]
    return "\n\n".join([head, _overview(several), *parts])


def _receipts_text(several: Sequence[Planned], receipts: Sequence[Receipt]) -> str:
    first = receipts[0]
    rate = first.bytes_read / max(first.seconds, 1e-9)
    lines = f"{len(several)} models in {first.seconds:.1f} s ({size(first.bytes_read)} read once, {size(rate)}/s)"
    if first.resumed:
        lines += f"\nwent on from {size(first.resumed)} that were finished, each run of which was checked"
    parts = [lines, _overview(several)]
    for one, receipt in zip(several, receipts, strict=True):
        told = losses_text(one.plan).strip()
        if receipt.replaced:
            told = f"{count(sum(receipt.replaced.values()))} values that were not finite were replaced\n{told}"
        parts += [f"{one.recipe}: {told}"] if told else []
    return "\n\n".join(parts)


def _overview(several: Sequence[Planned]) -> str:
    rows = [["recipe", "bytes", "bits/weight", "rounded twice", "written to"]]
    for one in several:
        plan = one.plan
        twice = sum(step.rounds_twice for step in plan.steps)
        written = printable(str(one.destination), None)
        rows.append([one.recipe, count(plan.layout.nbytes), f"{plan.bits_per_weight:.3f}", str(twice), written])
    cards = [
        printable(str(one.plan.layout.root / CARD), None)
        for one in several
        if one.plan.layout.root != one.destination and CARD in (file.name for file in one.plan.layout.files)
    ]
    told = table(rows, right=frozenset({1, 2, 3}), width=width())
    return "\n".join([told, *(f"model card: {path}" for path in cards)])


def _errors_text(several: Sequence[Planned], receipts: Sequence[Receipt]) -> str:
    """The relative error of each tensor under each recipe; nothing where it is not rounded."""
    rows = [["relative error of tensor", *(one.recipe for one in several)]]
    for name in dict.fromkeys(step.target.name for one in several for step in one.plan.steps):
        said = [receipt.errors.get(name) for receipt in receipts]
        rows.append([printable(name), *("" if error is None else f"{error:.5f}" for error in said)])
    return table(rows, right=frozenset(range(1, len(several) + 1)), width=width())
