"""`requant convert`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant import formats
from requant.cli import options
from requant.cli.execution import carry_out, measuring
from requant.cli.several import MARK, carry_out_several, destination_for, names_of
from requant.encodings import F32
from requant.errors import Error, PlanError
from requant.formats import FORMATS
from requant.ir import Checkpoint, Naming, Tensor
from requant.layout import Format
from requant.plan import Plan

if TYPE_CHECKING:
    from requant.operations.convert import Request

#: Formats that can store plain numbers at all; the others are only read.
WRITABLE: Final = sorted(name for name, known in FORMATS.items() if known.accepts(F32))

_EXAMPLES: Final = """\b
Examples:
  requant convert ./SmolLM2-135M smollm2-q4.gguf --to Q4_K_M
  requant convert HuggingFaceTB/SmolLM2-135M-Instruct smollm2-q8.gguf --to Q8_0
  requant convert model.gguf ./hf-folder --to BF16
  requant convert ./fp32-folder ./bf16-folder --to BF16 --max-shard-size 2G
  requant convert ./gemma-3-4b-it mmproj.gguf --mmproj --to F16
  requant convert ./adapter adapter.gguf --base ./SmolLM2-135M
  requant convert ./model out.gguf --to Q4_K_M --tensor-type ffn_down=Q6_K --dry-run
  requant convert ./model 'model-{}.gguf' --to Q4_K_M,Q6_K,Q8_0
  requant convert ./model ./model-mlx --to MLX-4
"""


class _Command(options.RoundingCommand):
    """With what `--to` takes at the end of its help, from the tables that it is read with."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from requant.recipes import RECIPES
        from requant.schemes import SCHEMES

        with formatter.section("RECIPE of a GGUF"):
            formatter.write_text(" ".join(RECIPES))
        with formatter.section("RECIPE of a folder"):
            plain = [("F32, F16, BF16", "plain numbers")]
            formatter.write_dl([*plain, *(form for family in SCHEMES.values() for form in family.forms.items())])
        super().format_epilog(ctx, formatter)


@click.command(cls=_Command, epilog=_EXAMPLES)
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--to", "recipe", metavar="RECIPE", help="Q4_K_M, BF16, NF4, ...; without it, exact stays exact.")
@click.option("--format", "format_name", type=click.Choice(WRITABLE), help="Default: by the destination's name.")
@click.option("--max-shard-size", metavar="SIZE", help="Split into files of at most SIZE, such as 5G.")
@click.option("--max-shard-tensors", type=click.IntRange(1), help="Split into files of at most so many tensors.")
@click.option(
    "--gptq-format",
    type=click.Choice(["gptq", "gptq_v2", "gptq_p"]),
    help="How a GPTQ source without a configuration stores zero points.",
)
@click.option("--base", metavar="MODEL", help="The model of an adapter; by default as its adapter_config.json says.")
@click.option("--mmproj", is_flag=True, help="Write what sees or hears in a model, instead of its text model.")
@click.option("--no-vocab", is_flag=True, help="Write a GGUF without tokenizer.")
@options.override_kv_option
@options.rounding_options
@options.run_options
def convert(
    source: str,
    destination: Path,
    recipe: str | None,
    format_name: str | None,
    max_shard_size: str | None,
    max_shard_tensors: int | None,
    gptq_format: str | None,
    base: str | None,
    mmproj: bool,
    no_vocab: bool,
    key_values: tuple[str, ...],
    choices: options.Choices,
    how: options.RunOptions,
) -> None:
    """Convert SOURCE to DESTINATION in one pass.

    SOURCE is a model file or folder, or a model of the Hugging Face Hub: owner/name, owner/name:Q4_K_M, or
    owner/name/file.gguf.

    The format of DESTINATION follows from its name: .gguf, .safetensors, otherwise a Hugging Face folder. Several
    recipes, separated by commas, are made in one pass: {} in DESTINATION stands for each, or it is a folder for all.
    """
    from requant.operations.convert import Request

    several = names_of(recipe) if recipe is not None and "," in recipe else ()
    target = format_for(destination, format_name) if not several else _format_of(destination, format_name, several)
    request = Request(
        recipe,
        choices.overrides(),
        choices.importance(),
        options.metadata_of(key_values),
        cut=options.cut(max_shard_size, max_shard_tensors),
        vocabulary=not no_vocab,
        projector=mmproj,
    )
    if key_values and target.naming is not Naming.GGML:
        raise PlanError(
            "--override-kv sets metadata of a GGUF; a Hugging Face folder has config.json",
            hint="edit config.json, or let the destination's name end in .gguf",
        )
    if not several:
        options.refuse_to_overwrite(destination, how.force or how.dry_run)
    copied = recipe is None and gptq_format is None and target.naming is Naming.HF
    _, model = formats.opened(options.located(source, how.quiet, headers=how.dry_run), as_stored=copied)
    if _is_adapter(model, target, base):
        if several:
            raise PlanError("an adapter becomes one file", hint="give --to one type")
        carry_out(_adapter_plan(model, base, target, destination, recipe, how.quiet), how)
        return
    if gptq_format is not None:
        from requant.operations.gptq_format import read_as

        model = read_as(model, gptq_format)
    if not several:
        carry_out(_plan(model, target, destination, request, how.quiet), how)
        return
    suffix = {"gguf": ".gguf"}.get(target.name, "")
    stem = _stem(source, model.path)
    carry_out_several(
        [(name, destination_for(destination, name, stem, suffix)) for name in several],
        lambda name, place: _plan(model, target, place, replace(request, recipe=name), how.quiet),
        how,
    )


def _stem(source: str, path: Path) -> str:
    """What a model is called in the names of several files made of it: a path's name, or that on the Hub."""
    name = Path(source).name if Path(source).exists() else source.split("@")[0].split(":")[0].rsplit("/", 1)[-1]
    return (name or path.resolve().name).removesuffix(".gguf").removesuffix(".safetensors") or "model"


def _format_of(destination: Path, name: str | None, recipes: tuple[str, ...]) -> Format:
    """As `format_for`; of a folder for several, what the recipes are of: GGUF, or Hugging Face folders."""
    from requant.encodings import Blocks
    from requant.recipes import ALIASES, RECIPES

    if name is None and not destination.suffix and MARK not in destination.name:
        known = (RECIPES.get(ALIASES.get(one, one)) for one in recipes)
        return FORMATS["gguf" if any(one and isinstance(one.main, Blocks) for one in known) else "safetensors"]
    return format_for(destination, name)


def _plan(model: Checkpoint[Tensor], target: Format, destination: Path, request: Request, quiet: bool) -> Plan:
    """The conversion; where planning measures, its progress is shown."""
    from requant.operations.convert import plan_conversion

    with measuring(quiet) if _measures(request.recipe, target) else nullcontext():
        return plan_conversion(model, target, destination, request)


def _is_adapter(model: Checkpoint[Tensor], target: Format, base: str | None) -> bool:
    """Whether SOURCE is an adapter of PEFT that becomes a GGUF."""
    from requant.adapters.recognized import CONFIG, is_adapter

    if CONFIG in model.files and is_adapter(model) and target.naming is Naming.GGML:
        return True
    if base is not None:
        raise click.UsageError(f"--base is the model of an adapter, and {model.path} is not one that becomes a GGUF")
    return False


def _adapter_plan(
    source: Checkpoint[Tensor], base: str | None, target: Format, destination: Path, recipe: str | None, quiet: bool
) -> Plan:
    """The GGUF that llama.cpp loads beside a model."""
    from requant.adapters.peft import peft_adapter
    from requant.adapters.written import Base, plan_adapter
    from requant.merging.model import model_of
    from requant.merging.reference import Reference

    adapter = peft_adapter(source)
    name = base or adapter.base
    if not name:
        raise PlanError(f"{source.path}: which model it is for is not said", hint="--base MODEL")
    try:
        model = model_of(Reference(name), formats.open(options.located(name, quiet)))
    except Error as error:
        hint = error.hint if base else f"--base MODEL, if it lies elsewhere than its adapter says ({name})"
        raise type(error)(str(error), hint=hint) from None
    return plan_adapter(adapter, Base(model.tensors, model.config), target, destination, recipe)


def _measures(recipe: str | None, target: Format) -> bool:
    """Whether planning reads weights, which takes its time."""
    if recipe is None or target.naming is not Naming.HF:
        return False
    from requant.schemes import scheme_named

    scheme = scheme_named(recipe)
    return scheme is not None and scheme.measures


def format_for(destination: Path, name: str | None) -> Format:
    """The format asked for, or the one the destination's name means."""
    if name is not None:
        return FORMATS[name]
    suffix = destination.suffix.lower()
    if suffix == ".gguf":
        return FORMATS["gguf"]
    if suffix in (".bin", ".pt", ".pth", ".onnx", ".ggml"):
        raise PlanError(f"{destination}: such files are not written", hint="use .gguf, .safetensors or a folder")
    return FORMATS["safetensors"]
