"""`requant convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from requant.cli import outputs, paths, writing
from requant.cli.allocating import AllocationOptions, allocation_options
from requant.cli.correcting import FeedbackOptions, feedback_options

_EXAMPLES: Final = """\b
Examples:
  requant convert ./SmolLM2-135M smollm2-q4.gguf --to Q4_K_M
  requant convert HuggingFaceTB/SmolLM2-135M-Instruct smollm2-q8.gguf --to Q8_0
  requant convert ./SmolLM2-135M --to Q4_K_M
  requant convert hf://HuggingFaceTB/SmolLM2-135M smollm2-q4.gguf --to Q4_K_M --resume
  requant convert model.gguf ./hf-folder --to BF16
  requant convert ./fp32-folder ./bf16-folder --to BF16 --max-shard-size 2G
  requant convert ./gemma-3-4b-it mmproj.gguf --mmproj --to F16
  requant convert gemma-3-4b-it.gguf ./gemma-3-4b-it --with-mmproj mmproj.gguf
  requant convert ./adapter adapter.gguf --base ./SmolLM2-135M
  requant convert ./model best.gguf --stats stats.gguf --target-bpw 4.8
  requant convert ./model out.gguf --to Q4_K_M --tensor-type ffn_down=Q6_K --dry-run
  requant convert ./model 'model-{}.gguf' --to Q4_K_M,Q6_K,Q8_0
  requant convert ./model ./model-mlx --to MLX-4
  requant convert ./SmolLM2-135M ./SmolLM2-GPTQ --to GPTQ-4-64 --stats stats.gguf
  requant convert ./SmolLM2-135M smollm2-q4.gguf --to Q4_K_M --stats stats.gguf --feedback
  requant convert ./model model.gguf --to Q4_K_M --ollama
  requant convert ./model ./publish --to Q4_K_M,Q8_0 --card --card-set quantized_by=me
"""


class _Command(writing.RoundingCommand):
    """With what `--to` takes at the end of its help, from the tables that it is read with."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from requant.recipes.notes import NOTES
        from requant.schemes import SCHEMES

        with formatter.section("RECIPE of a GGUF (perplexity: its rise, as llama.cpp publishes for Llama-3-8B)"):
            formatter.write_dl([*((name, note.text) for name, note in NOTES.items()), ("COPY", "types as they are")])
        with formatter.section("RECIPE of a folder"):
            plain = [("F32, F16, BF16", "plain numbers")]
            formatter.write_dl([*plain, *(form for family in SCHEMES.values() for form in family.forms.items())])
        super().format_epilog(ctx, formatter)


@click.command(cls=_Command, epilog=_EXAMPLES)
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path), required=False)
@outputs.recipe_option
@outputs.format_option
@outputs.shard_size_option
@click.option("--max-shard-tensors", type=click.IntRange(1), help="Split into files of at most so many tensors.")
@click.option(
    "--gptq-format",
    type=click.Choice(["gptq", "gptq_v2", "gptq_p"]),
    help="How a GPTQ source without a configuration stores zero points.",
)
@click.option("--base", metavar="MODEL", help="The model of an adapter; by default as its adapter_config.json says.")
@click.option("--mmproj", is_flag=True, help="Write what sees or hears in a model, instead of its text model.")
@click.option(
    "--with-mmproj",
    metavar="MMPROJ",
    type=paths.ANYTHING,
    help="The GGUF of what SOURCE sees or hears with: one folder of both.",
)
@outputs.no_vocab_option
@writing.prune_option
@writing.gguf_options
@allocation_options
@feedback_options
@writing.rounding_options
@writing.card_options
@writing.stream_option
@writing.run_options
def convert(
    source: str,
    destination: Path | None,
    recipe: str | None,
    format_name: str | None,
    max_shard_size: str | None,
    max_shard_tensors: int | None,
    gptq_format: str | None,
    base: str | None,
    mmproj: bool,
    with_mmproj: Path | None,
    no_vocab: bool,
    prune: tuple[int, ...],
    gguf: writing.GgufOptions,
    wish: AllocationOptions,
    correcting: FeedbackOptions,
    choices: writing.Choices,
    card: writing.CardOptions,
    stream: bool,
    how: writing.RunOptions,
) -> None:
    """Convert SOURCE to DESTINATION in one pass.

    SOURCE is a model file or folder, or a model of the Hugging Face Hub: owner/name, owner/name:Q4_K_M, or
    owner/name/file.gguf, which is downloaded into the Hub's cache; with --stream, or as hf://owner/name, its
    tensors are fetched when they are needed, and none is kept. https://, s3:// and gs:// stream, too.

    The format of DESTINATION follows from its name: .gguf, .safetensors, otherwise a Hugging Face folder. Without it,
    source and recipe make a name in the current folder, such as SmolLM2-135M-Q4_K_M.gguf or SmolLM2-135M-GPTQ. Several
    recipes, separated by commas, are made in one pass: {} in DESTINATION stands for each, or it is a folder for all.
    """
    from requant.cli.conversion import Asked, carry_out_conversion

    carry_out_conversion(
        Asked(
            source,
            destination,
            recipe,
            format_name,
            gptq_format,
            base,
            projector=mmproj,
            beside=with_mmproj,
            vocabulary=not no_vocab,
            cut=outputs.cut(max_shard_size, max_shard_tensors),
            prune=prune,
            gguf=gguf,
            wish=wish,
            correcting=correcting,
            choices=choices,
            card=card,
            stream=stream,
            how=how,
        )
    )
