"""`requant calibrate`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.cli import interrupts, options, paths
from requant.cli.saying import say_document
from requant.cli.stages import bars, byte_bar
from requant.cli.tables import count
from requant.cli.terminal import say
from requant.errors import PlanError
from requant.printable import printable

if TYPE_CHECKING:
    from requant.operations.calibrate import Progress, Request
    from requant.statistics import Statistics

_EXAMPLES: Final = """\b
Examples:
  requant calibrate ./SmolLM2-135M -o stats.gguf --gradients
  requant calibrate model-Q8_0.gguf -o imatrix.gguf --text wiki.txt --text code.txt --tokens 65536
  requant calibrate model.gguf -o stats.gguf --hessians
  requant calibrate model-BF16.gguf -o stats.gguf --engine llama --roles
  requant calibrate --merge one.gguf two.gguf -o both.gguf
  requant requantize model-f16.gguf model-q4.gguf Q4_K_M --imatrix stats.gguf
"""
_SHOWN: Final = 16


@click.command(epilog=_EXAMPLES)
@click.argument("models", metavar="MODEL", nargs=-1, required=True)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="STATS.gguf, or .dat: imatrix only."
)
@click.option(
    "--text",
    "texts",
    multiple=True,
    type=paths.FILE,
    help="Text to read; default: prose, code, languages and conversations of our own. Repeatable.",
)
@click.option(
    "--engine",
    type=click.Choice(["torch", "llama"]),
    default="torch",
    show_default=True,
    help="What runs MODEL: transformers, or llama.cpp (requant[llama]), which has no gradients and Hessians.",
)
@click.option("--tokens", type=click.IntRange(1), help="Read at most so many, spread over the text.")
@click.option("--ctx", type=click.IntRange(32, 1 << 20), default=512, show_default=True, help="Tokens of a window.")
@click.option("--gradients", is_flag=True, help="Measure how much each output matters, too: several times the work.")
@click.option(
    "--gradient-tokens", type=click.IntRange(1), help="With --gradients: of at most so many tokens. [default: 8192]"
)
@click.option("--hessians", is_flag=True, help="Keep E[x xᵀ] of every matrix: GPTQ and --feedback need them.")
@click.option(
    "--roles",
    is_flag=True,
    help="With --engine llama: measure how far the model diverges when all matrices of one role are rounded. Types are "
    "chosen by that where there are no gradients.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Keep what is found in STATS.gguf.unfinished after every layer, or window of --engine llama; given again, go "
    "on from there.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of what is drawn.")
@click.option("--merge", is_flag=True, help="MODEL... are statistics of one model, which are added up.")
@click.option("--force", "-f", is_flag=True, help="Replace what exists at the output.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bars and no summary.")
def calibrate(
    models: tuple[str, ...],
    output: Path,
    texts: tuple[Path, ...],
    engine: str,
    tokens: int | None,
    ctx: int,
    gradients: bool,
    gradient_tokens: int | None,
    hessians: bool,
    roles: bool,
    resume: bool,
    seed: int,
    merge: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run MODEL over text and write an importance matrix, as llama-imatrix does.

    MODEL is anything that `convert` reads, quantized or not. transformers runs it layer by layer (extra
    requant[torch]): one layer is in memory at a time, and what goes from one to the next lies in the folder for
    temporary files. --engine llama runs a GGUF as it is, of every architecture that llama.cpp knows; of another MODEL
    it makes one first, in the folder for temporary files. llama.cpp and --imatrix read what is written; --gradients and
    where it came from lie beside, in keys and tensors that they pass over.
    """
    from requant.operations.calibrate import GRADIENT_TOKENS, Request

    if output.suffix.lower() not in (".gguf", ".dat"):
        raise click.UsageError(f"{output}: statistics are .gguf, or .dat for an importance matrix of the old form")
    if (gradients or hessians) and output.suffix.lower() == ".dat":
        raise click.UsageError("a .dat has no place for gradients and Hessians; write a .gguf")
    if merge and (texts or tokens is not None or gradients or hessians or roles):
        raise click.UsageError(
            "--merge adds up what was measured; --text, --tokens, --gradients, --hessians and --roles are of measuring"
        )
    if gradient_tokens is not None and not gradients:
        raise click.UsageError("--gradient-tokens goes with --gradients")
    if engine == "llama" and (gradients or hessians):
        raise click.UsageError("--gradients and --hessians are of --engine torch; llama.cpp has neither")
    if roles and (engine != "llama" or output.suffix.lower() == ".dat"):
        raise click.UsageError("--roles goes with --engine llama, and a .gguf; torch has --gradients, which say more")
    options.refuse_to_overwrite(output, force)
    with interrupts.cleaning_up(), bars(quiet) as progress:
        if merge:
            _write(found := _merged(models), output, overwrite=force)
        elif len(models) != 1:
            raise click.UsageError("calibrate runs one MODEL; --merge adds statistics up")
        else:
            named = tuple((path.name, options.read_text(path)) for path in texts)
            with tempfile.TemporaryDirectory(prefix="requant-plan-") as folder:
                kept = Path(folder) if hessians else None
                work = output.with_name(f"{output.name}.unfinished") if resume else None
                graded = gradient_tokens or GRADIENT_TOKENS
                rounded = Path(folder) if roles else None
                request = Request(named, tokens, ctx, gradients, seed, kept, graded, work, rounded)
                found = _RUN[engine](models[0], Path(folder), request, progress, quiet)
                _write(found, output, overwrite=force)
                if work is not None:
                    shutil.rmtree(work, ignore_errors=True)
    if as_json:
        say_document("calibration", document(found, output))
    elif not quiet:
        say(text(found, output))


def _in_torch(model: str, folder: Path, request: Request, progress: Progress, quiet: bool) -> Statistics:
    """The model as a folder of plain numbers, planned and not carried out."""
    from requant import formats
    from requant.operations.calibrate import calibrate, check_installed
    from requant.operations.convert import Request as Conversion
    from requant.operations.convert import plan_conversion

    check_installed()
    source = formats.open(options.located(model, quiet))
    plan = plan_conversion(source, formats.FORMATS["safetensors"], folder / "model", Conversion("F32"))
    return calibrate(plan, request, progress)


def _in_llama_cpp(model: str, folder: Path, request: Request, progress: Progress, quiet: bool) -> Statistics:
    """A GGUF as it is; anything else as one that is made of it, with every number as it is stored."""
    from requant import formats
    from requant.execution import execute
    from requant.operations.calibrate_in_llama_cpp import calibrate_in_llama_cpp
    from requant.operations.convert import Request as Conversion
    from requant.operations.convert import plan_conversion
    from requant.together import input_bytes
    from requant.verify.llama_cpp import find_library

    find_library()  # before anything is converted
    path = options.located(model, quiet)
    found, source = formats.opened(path)
    if found.name != "gguf" or not path.is_file():
        path = folder / "model.gguf"
        plan = plan_conversion(source, formats.FORMATS["gguf"], path, Conversion())
        with byte_bar(input_bytes([plan]), "converting", quiet) as bar:
            execute(plan, progress=bar.update)
        source = formats.open(path)
    return calibrate_in_llama_cpp(path, source, request, progress)


_RUN: Final = {"torch": _in_torch, "llama": _in_llama_cpp}


def _merged(paths: tuple[str, ...]) -> Statistics:
    from requant.formats.imatrix.statistics import read_statistics
    from requant.statistics import check_finite, merged

    if len(paths) < 2:
        raise PlanError("--merge adds up two statistics or more")
    found = merged([read_statistics(Path(path)) for path in paths])
    check_finite(found)
    return found


def _write(found: Statistics, output: Path, *, overwrite: bool) -> None:
    from requant.execution import execute
    from requant.formats.imatrix.legacy import legacy_bytes
    from requant.layout import Layout, OutputFile
    from requant.operations.calibrate import plan_statistics
    from requant.plan import Plan

    if output.suffix.lower() == ".dat":
        data = legacy_bytes(found.importance)
        plan = Plan((), Layout(output.parent, (OutputFile(output.name, data, len(data)),)))
    else:
        plan = plan_statistics(found, output)
    execute(plan, overwrite=overwrite)


def document(found: Statistics, output: Path) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "files": [{"name": output.name, "bytes": output.stat().st_size}],
        "tensors": len(found.importance.entries),
        "tokens": found.provenance.tokens,
        "gradient_tokens": found.provenance.gradient_tokens,
        "hessians": found.sums_of_outer_products,
        "roles": sorted(found.roles),
        "window": found.importance.chunk_tokens,
        "engine": found.provenance.engine,
        "model": found.provenance.model,
        "texts": list(found.provenance.texts),
        "unreached": found.unreached(),
    }


def text(found: Statistics, output: Path) -> str:
    """What was found, for people."""
    said = found.provenance
    gradients = f", gradients of {count(said.gradient_tokens)} of them" if said.gradient_tokens else ""
    hessians = f", {count(found.sums_of_outer_products)} Hessians" if found.hessians else ""
    roles = f", divergences of {len(found.roles)} roles" if found.roles else ""
    lines = [
        f"{printable(str(output), None)}: {len(found.importance.entries)} tensors, {count(said.tokens)} tokens in "
        f"windows of {found.importance.chunk_tokens}{gradients}{hessians}{roles}"
    ]
    unreached = found.unreached()
    lines += [
        f"warning: {number} experts of {printable(name)} were reached by no token"
        for name, number in list(unreached.items())[:_SHOWN]
    ]
    if len(unreached) > _SHOWN:
        lines.append(f"warning: so it is with {len(unreached) - _SHOWN} tensors more: read more text")
    return "\n".join(lines)
