"""`requant recommend`."""

from __future__ import annotations

from typing import Final

import click

from requant.cli import options, outputs
from requant.cli.options import Number
from requant.cli.saying import say_document
from requant.cli.terminal import say

#: Runtimes by the name of `--for`; the table of them takes its time to import.
_RUNTIMES: Final = ("llama.cpp", "vllm", "mlx", "exllama")

_EXAMPLES: Final = """\b
Examples:
  requant recommend ./SmolLM2-135M --memory 2GB
  requant recommend Qwen/Qwen3-8B --device rtx4090 --context 32768
  requant recommend Qwen/Qwen3-8B --device h100 --for vllm --sequences 16
  requant recommend ./model --memory 16GB --device m-series --for mlx --json
"""


@click.command(epilog=_EXAMPLES)
@click.argument("model")
@click.option("--memory", metavar="SIZE", help="What there is: 24GB, 24GiB. Default: that of --device.")
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="h100, rtx4090, m-series, edge, …")
@click.option(
    "--bandwidth",
    type=Number(0, 1e6, min_open=True),
    metavar="GB/S",
    help="Of the memory, for the bound on the speed. Default: that of --device.",
)
@click.option("--for", "runtime", type=click.Choice(_RUNTIMES), help="What runs it.  [default: llama.cpp]")
@click.option("--context", "--ctx", type=click.IntRange(1, 1 << 30), default=8192, show_default=True, help="Tokens.")
@click.option(
    "--sequences", type=click.IntRange(1, 1 << 16), default=1, show_default=True, help="Answered at the same time."
)
@click.option("--cache", metavar="TYPE", help="Of keys and values: f16, q8_0, fp8, …  [default: f16]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Nothing on standard error.")
def recommend(
    model: str,
    memory: str | None,
    device: str,
    bandwidth: float | None,
    runtime: str | None,
    context: int,
    sequences: int,
    cache: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Tell which recipe of MODEL fits a memory, what it is expected to lose, and the command that makes it.

    Weights, keys and values at --context, and buffers are added up for every recipe that the runtime loads; of those
    that fit, the one with the least expected loss is recommended. Only headers are read. Exit code 1 if none fits.
    """
    from requant import formats
    from requant.cli.recommended import document, text
    from requant.recommending.devices import device_named
    from requant.recommending.offers import Model, best
    from requant.recommending.runtimes import runtime_for

    found = device_named(device)
    runs = runtime_for(runtime, found)
    nbytes = None if memory is None else outputs.size_of(memory, "--memory")
    room = runs.room(found, nbytes, None if bandwidth is None else bandwidth * 1e9, context, sequences, cache)
    _, source = formats.opened(options.located(model, quiet, headers=True))
    about = Model(source, runs)
    offers, refused = about.offers(room)
    if as_json:
        say_document("recommend", document(model, about, room, offers, refused))
    else:
        say(text(model, about, room, offers, refused))
    if best(offers, room) is None:
        click.get_current_context().exit(1)
