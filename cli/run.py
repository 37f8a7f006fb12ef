"""`requant run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from requant.cli import options, paths
from requant.cli.options import MAX_THREADS
from requant.errors import PlanError
from requant.printable import printable
from requant.system import processors

if TYPE_CHECKING:
    from requant.execution import Receipt
    from requant.ir import Checkpoint, Tensor
    from requant.pipelines.made import Pipeline, Planned
    from requant.pipelines.stages import Check
    from requant.plan import Plan

_EXAMPLES: Final = """\b
Examples:
  requant run recipe.yaml
  requant run recipe.yaml model=./SmolLM2-135M output=smollm2-q4.gguf
  requant run recipe.yaml --dry-run

\b
A recipe:
  inputs: {model: ./SmolLM2-135M, output: smollm2-q4.gguf}      # NAME=VALUE sets them
  model: $model
  stages:
    - prune: {sparsity: "2:4"}
    - merge: previous+./adapter          # or what `requant merge` takes as a recipe
    - calibrate: {tokens: 65536}
    - quantize: {to: Q4_K_M}
    - check: {against: $model, max_kl: 0.5}
  output: $output
"""


@click.command(epilog=_EXAMPLES)
@click.argument("recipe", metavar="RECIPE.yaml", type=paths.FILE)
@click.argument("settings", metavar="[NAME=VALUE]...", nargs=-1)
@click.option("--work", type=click.Path(path_type=Path), help="What is kept lies here. Default: OUTPUT.run.")
@click.option("--dry-run", is_flag=True, help="Print the plan of all stages and stop; nothing is measured or written.")
@click.option("--force", "-f", is_flag=True, help="Replace what exists at the output and is not of this recipe.")
@click.option("--threads", "-t", type=click.IntRange(1, MAX_THREADS), help="Threads (default: all processors).")
@click.option("--json", "as_json", is_flag=True, help="Print the plan (with --dry-run) or the receipt as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bars and no receipt.")
def run(
    recipe: Path,
    settings: tuple[str, ...],
    work: Path | None,
    dry_run: bool,
    force: bool,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Carry out a recipe of stages: merge, student, prune, calibrate, quantize, check.

    Stages are joined without files between them: merged and pruned weights are computed where the output is written.
    Only what calibrate measures is kept, in OUTPUT.run, under a name made of the content that it was measured of. The
    same command, killed at any moment, goes on from what is finished and ends in the same bytes; once all is done it
    changes nothing. OUTPUT.receipt.json tells recipe, stages, and SHA-256 of every file that was read and written.
    """
    from requant import formats
    from requant.cli import interrupts
    from requant.cli.execution import measuring
    from requant.cli.execution import run as carried_out
    from requant.cli.outputs import format_for
    from requant.cli.saying import say_document
    from requant.cli.stages import bars
    from requant.cli.terminal import say
    from requant.execution import Options
    from requant.journal import finish_around
    from requant.pipelines.made import Pipeline
    from requant.pipelines.recipe import recipe_from
    from requant.pipelines.work import Work

    read = recipe_from(options.read_text(recipe), recipe.name, dict(map(_setting, settings)))
    output, workers = Path(read.output), threads or processors()
    finish_around(output)

    def opened(name: str) -> Checkpoint[Tensor]:
        return formats.open(options.located(name, quiet, headers=dry_run))

    def executed(plan: Plan, overwrite: bool) -> Receipt:
        return carried_out(plan, Options(workers), quiet, overwrite=overwrite, resume=True)

    with interrupts.cleaning_up(), bars(quiet) as progress:
        pipeline = Pipeline(
            read,
            opened,
            lambda path: options.read_text(Path(path)),
            format_for(output, None),
            Work(work or output.with_name(f"{output.name}.run"), keeps=not dry_run),
            progress,
            rehearsal=dry_run,
        )
        with measuring(quiet):
            planned = pipeline.planned()
        if not dry_run:
            found = pipeline.run(planned, executed, lambda path, check: _checked(path, check, quiet), overwrite=force)
    if dry_run:
        if as_json:
            say_document("pipeline", _plan_document(pipeline, planned, workers))
        else:
            say(_plan_text(pipeline, planned, workers))
    elif as_json:
        say_document("pipeline receipt", {**found, "reused": pipeline.reused})
    elif not quiet:
        say(_receipt_text(pipeline, found))


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"{text!r} is not NAME=VALUE")
    return name, value


def _checked(path: Path, check: Check, quiet: bool) -> dict[str, Any]:
    """What `requant check` finds."""
    from requant.cli.check import LIMITS, opener
    from requant.cli.stages import bars
    from requant.verify.check import Limits, Trial, check_model, default_text

    if path.is_dir():
        raise PlanError(f"{path} is a folder; llama.cpp loads GGUF files", hint="leave out check, or write a GGUF")
    said = check.options
    trial = Trial(
        prompt=said.get("prompt", "The capital of France is"),
        raw=said.get("raw", False),
        expect=said.get("expect", ""),
        answer_tokens=said.get("predict", 48),
        texts=(options.read_text(Path(said["text"])) if "text" in said else default_text(),),
        n_ctx=said.get("ctx", 512),
        chunks=said.get("chunks", 4) or None,
    )
    limits = Limits(**{name: float(said[name]) for name in LIMITS if name in said})
    other = None if "against" not in said else options.located(said["against"], quiet)
    reference = None if other is None else opener(other, "auto", trial.n_ctx, None)
    with bars(quiet) as progress:
        return dict(check_model(path, trial, limits, reference, progress).to_json())


def _plan_document(pipeline: Pipeline, planned: Planned, workers: int) -> dict[str, object]:
    from requant.execution import peak_bytes

    return {
        "stages": list(pipeline.done),
        "told": list(planned.told),
        "pending": list(planned.pending),
        "reused": list(pipeline.reused),
        "destination": str(pipeline.output),
        "plan": {**planned.plan.to_json(), "peak_bytes": peak_bytes(planned.plan, workers)},
    }


def _plan_text(pipeline: Pipeline, planned: Planned, workers: int) -> str:
    from requant.cli.execution import plan_text

    lines = [f"{number}. {stage['stage']}{_said(stage)}" for number, stage in enumerate(pipeline.done, 1)]
    lines += [f"   {printable(one, 1000)}" for one in planned.told]
    lines += [f"   {name} is there, and is not measured again" for name in pipeline.reused]
    lines += [f"   {name} is yet to be measured" for name in planned.pending]
    return "\n".join(lines) + "\n\n" + plan_text(planned.plan, workers)


def _said(stage: Mapping[str, Any]) -> str:
    return "".join(
        f" {key}={printable(str(value), 200)}" if key else f" {value}" for key, value in stage["options"].items()
    )


def _receipt_text(pipeline: Pipeline, found: Mapping[str, Any]) -> str:
    from requant.cli.tables import size

    lines = [f"{one['sha256'][:16]}  {size(one['bytes'])}  {printable(one['file'], None)}" for one in found["outputs"]]
    if "expected_kl" in found:
        lines.append(f"expected KL divergence {found['expected_kl']:.5f}")
    return "\n".join([*lines, f"receipt: {printable(str(pipeline.receipt), None)}"])
