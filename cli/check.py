"""`requant check`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from requant.cli import interrupts, paths
from requant.cli.options import MAX_THREADS, Number, html_option, located, read_text
from requant.cli.saying import say_document
from requant.cli.stages import bars
from requant.cli.tables import size
from requant.cli.terminal import remark, say
from requant.cli.verdicts import verdict
from requant.errors import PlanError, VerifyError
from requant.printable import printable

if TYPE_CHECKING:
    from requant.verify.check import OpenReference, Reference, Report, Versus
    from requant.verify.logits import Divergence, Measure

_EXAMPLES: Final = """\b
Examples:
  requant check model-Q4_K_M.gguf --prompt "The capital of France is" --expect Paris
  requant check model-Q4_K_M.gguf --against ./hf-folder
  requant check model-Q4_K_M.gguf --against model-BF16.gguf --text wiki.txt --chunks 20 --max-kl 0.05
  requant check model-Q4_K_M.gguf --against ./hf-folder --html check.html
  requant check best.gguf --against model-BF16.gguf --versus model-Q4_K_M.gguf --text wiki.txt --chunks 0
"""


LIMITS: Final = ("max_kl", "min_top1", "max_ppl_ratio", "min_cosine")


@click.command(epilog=_EXAMPLES)
@click.argument("model")
@click.option(
    "--against",
    metavar="HF_FOLDER|OTHER.gguf",
    help="Compare the predictions with these: KL divergence, top-1 agreement, perplexity ratio.",
)
@click.option(
    "--reference",
    type=click.Choice(["auto", "transformers", "requant"]),
    default="auto",
    show_default=True,
    help="Who computes an HF folder: transformers (independent; extra requant[torch]), or llama.cpp on a temporary F32 "
    "GGUF made by requant. auto: transformers where it is installed and loads the folder. Both need 4 bytes a weight.",
)
@click.option(
    "--versus",
    type=paths.FILE,
    metavar="OTHER.gguf",
    help="Compare another GGUF with --against, too, on the same tokens: which is closer, and whether that is chance.",
)
@click.option("--text", "texts", multiple=True, type=paths.FILE, help="Default: prose of our own. Repeatable.")
@click.option("--prompt", default="The capital of France is", show_default=True, help="'' asks nothing.")
@click.option("--raw", is_flag=True, help="Give the prompt as it is, not in the model's chat template.")
@click.option("--expect", default="", metavar="TEXT", help="Fail unless the answer contains TEXT (in any case).")
@click.option("--predict", type=click.IntRange(1), default=48, show_default=True, help="Tokens of answer at most.")
@click.option("--ctx", type=click.IntRange(32), default=512, show_default=True, help="Tokens in a window of text.")
@click.option("--chunks", type=click.IntRange(0), default=4, show_default=True, help="Windows to measure; 0 for all.")
@click.option("--threads", "-t", type=click.IntRange(1, MAX_THREADS), help="Threads (default: all processors).")
@click.option("--max-kl", type=Number(), metavar="NATS", help="Fail above this mean KL divergence. [default: 0.2]")
@click.option("--min-top1", type=Number(), metavar="SHARE", help="Fail below this top-1 agreement. [default: 0.75]")
@click.option(
    "--max-ppl-ratio", type=Number(), metavar="RATIO", help="Fail above this perplexity ratio. [default: 1.15]"
)
@click.option(
    "--min-cosine", type=Number(), metavar="COS", help="Encoders: fail below this similarity. [default: 0.98]"
)
@html_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bars.")
def check(
    model: str,
    against: str | None,
    reference: str,
    versus: Path | None,
    texts: tuple[Path, ...],
    html: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Load MODEL in the real llama.cpp, let it answer, and measure it; exit code 5 when it fails.

    Perplexity is llama-perplexity's: of the second half of each window, so it can be compared with published figures
    for the same text and --ctx. llama.cpp runs in a process of its own (extra requant[llama]); a crash there is
    a failure here.

    llama.cpp rounds what it multiplies quantized weights with to 8 bits. So a repack whose weights equal those of
    --against still differs from it if that is F32 or transformers: by a ratio near 1.003 and a KL divergence near 0.002
    on SmolLM2-135M. The error after ± says whether --chunks suffice to see that; the default 4 leave ± 0.003.
    """
    from requant.verify.check import Limits, Trial, check_model, default_text

    trial = Trial(
        prompt=options["prompt"],
        raw=options["raw"],
        expect=options["expect"],
        answer_tokens=options["predict"],
        texts=tuple(read_text(text) for text in texts) or (default_text(),),
        n_ctx=options["ctx"],
        chunks=options["chunks"] or None,
        threads=options["threads"],
    )
    asked = {name: options[name] for name in LIMITS if options[name] is not None}
    _refuse_idle(against, reference, asked, options)
    if versus is not None and against is None:
        raise click.UsageError("--versus goes with --against, which both are compared with")
    if html is not None:
        from requant.cli.pages.writing import check_page

        check_page(html)
    path = located(model, quiet)
    if path.is_dir():
        raise PlanError(f"{path} is a folder; llama.cpp loads GGUF files", hint="requant convert makes one of it")
    other = None if against is None else located(against, quiet)
    opened = None if other is None else opener(other, reference, trial.n_ctx, trial.threads)
    with interrupts.cleaning_up(), bars(quiet) as progress:
        report = check_model(path, trial, Limits(**asked), opened, progress, versus)
    document = report.to_json()
    if html is not None and against is not None and other is not None:
        document["relative_errors"] = _errors(path, other, trial.threads, quiet)
    if as_json:
        say_document("check", document)
    else:
        say(report_text(report))
    if html is not None:
        _write_page(html, path, document)
    if report.failures:
        raise VerifyError(f"{path}: {'; '.join(report.failures)}")


def _refuse_idle(against: str | None, reference: str, limits: Mapping[str, float], options: Mapping[str, Any]) -> None:
    """What has no say without another option is not passed over."""
    if against is None and (limits or reference != "auto"):
        idle = f"--{next(iter(limits)).replace('_', '-')}" if limits else "--reference"
        raise click.UsageError(f"{idle} goes with --against")
    if not options["prompt"]:
        asking = {"--expect": "expect", "--raw": "raw", "--predict": "predict"}
        if given := next((option for option, name in asking.items() if _is_given(name)), None):
            raise click.UsageError(f"{given} goes with a --prompt that asks something")


def _is_given(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _errors(path: Path, against: Path, threads: int | None, quiet: bool) -> dict[str, float]:
    """For the page: how far each tensor is from that of the reference; what cannot be compared is left out."""
    from requant.cli.diff import with_values
    from requant.formats import opened
    from requant.operations.compare import compare

    models = [(found.name, source) for found, source in (opened(one, as_stored=True) for one in (against, path))]
    comparison = with_values(compare(models[0], models[1]), threads, quiet)
    return {row.name: row.numbers.relative for row in comparison.rows if row.numbers is not None}


def _write_page(html: Path, path: Path, document: Mapping[str, Any]) -> None:
    """What llama.cpp said, and what the file consists of."""
    from requant import formats
    from requant.cli.pages.trial import trial_page
    from requant.cli.pages.writing import write_page
    from requant.operations import inspect

    found, checkpoint = formats.opened(path, as_stored=True)
    inspected = inspect.report(checkpoint, found.name)
    tensors = [one.to_json() for one in inspected.placed]
    metadata = {key: field.value for key, field in checkpoint.metadata.items()}
    inspection = {**inspected.to_json(), "tensors": tensors, "metadata": metadata}
    remark(write_page(html, trial_page(document, inspection)))


def opener(against: Path, how: str, n_ctx: int, threads: int | None) -> OpenReference:
    """Something that opens the reference; an impossible `--reference` is refused now."""
    from requant.verify import transformers

    if how == "transformers" and not transformers.is_installed():
        raise PlanError("--reference transformers needs torch and transformers", hint='pip install "requant[torch]"')

    @contextlib.contextmanager
    def opened(encoder: bool) -> Iterator[Reference]:
        from requant.verify.llama_cpp import LlamaCpp

        if against.is_file():
            with LlamaCpp(against, n_ctx=n_ctx, threads=threads, embeddings=encoder) as llama:
                yield llama
            return
        why = "transformers is not installed" if how == "auto" else ""
        if how == "transformers" or (how == "auto" and transformers.is_installed()):
            try:
                independent = transformers.Transformers(against, encoder=encoder, threads=threads)
            except VerifyError as error:
                if how == "transformers":
                    raise
                why = str(error)
            else:
                yield independent
                return
        with tempfile.TemporaryDirectory(prefix="requant-check-") as folder:
            dense = _dense(against, Path(folder) / "reference.gguf")
            with LlamaCpp(dense, n_ctx=n_ctx, threads=threads, embeddings=encoder) as llama:
                llama.label = f"{against.name} as requant converts it to F32, in llama.cpp{why and f' ({why})'}"
                yield llama

    return opened


def _dense(source: Path, destination: Path) -> Path:
    """`source` as an F32 GGUF."""
    from requant import formats
    from requant.execution import execute
    from requant.formats import FORMATS
    from requant.operations.convert import Request, plan_conversion

    execute(plan_conversion(formats.open(source), FORMATS["gguf"], destination, Request("F32")))
    return destination


def report_text(report: Report) -> str:
    """The report for people."""
    info = report.info
    lines = [
        f"loaded      {printable(info.description)}: {info.parameters:,} parameters, {size(info.nbytes_weights)}, "
        f"{info.seconds:.1f} s"
    ]
    lines += [f"warning     {printable(warning, 1000)}" for warning in report.warnings]
    if (answer := report.answer) is not None:
        lines.append(f"prompt      {printable(answer.prompt, 1000)}{'' if answer.chat else '   (raw)'}")
        lines += [f"answer      {line}" for line in answer.text.strip().splitlines() or [""]]
        lines.append(f"speed       {answer.tokens_per_second:.1f} tokens/s generated{_reading(report)}")
    if (perplexity := report.perplexity) is not None:
        windows = f"{report.scored_tokens} tokens in windows of {report.window}"
        lines.append(f"perplexity  {_plus_minus(perplexity, 4)}   ({windows})")
        if perplexity.value > info.n_vocab:
            lines.append("warning     that is worse than guessing")
    if report.embedded:
        lines.append(f"embeddings  {report.embedded} texts as {info.n_embd} numbers each, all finite")
    if (against := report.against) is not None:
        lines += [f"against     {printable(against.reference, 1000)}", *_against(against)]
    if report.versus is not None:
        lines += _versus(report.versus)
    lines.append("failed" if report.failures else "passed")
    return "\n".join(lines)


def _reading(report: Report) -> str:
    return "" if report.tokens_per_second is None else f", {report.tokens_per_second:.0f} tokens/s read"


def _against(against: Any) -> Iterator[str]:
    yield f"  tokenizer        {'equal' if against.tokens_equal else 'DIFFERENT'}"
    if against.cosine is not None:
        yield f"  cosine           {against.cosine:.6f} at worst"
    if (found := against.divergence) is not None:
        yield f"  perplexity       {_plus_minus(against.perplexity, 4)}"
        yield f"  ratio            {_plus_minus(found.ratio, 4)}"
        yield from _divergence(found)


def _divergence(found: Divergence) -> Iterator[str]:
    worst = f"99 %: {found.kl_99:.4f} ± {found.kl_99_error:.4f}, max: {found.kl_max:.4f} ± {found.kl_max_error:.4f}"
    yield f"  KL divergence    {_plus_minus(found.kl, 5)}, {worst}"
    yield f"  top-1 agreement  {found.top1.value:.2%} ± {found.top1.error:.2%}"


def _versus(versus: Versus) -> Iterator[str]:
    """The other model, and which is the better one."""
    difference = versus.difference
    yield f"versus      {printable(versus.model, 1000)}"
    yield f"  perplexity       {_plus_minus(versus.perplexity, 4)}"
    yield from _divergence(versus.divergence)
    yield f"  difference       {difference.kl.value:+.5f} ± {difference.kl.error:.5f} in KL divergence, paired"
    yield f"  closer           at {difference.closer.value:.2%} ± {difference.closer.error:.2%} of all tokens"
    yield f"  {verdict(versus.real, difference.kl.value, versus.deviations)}"


def _plus_minus(measure: Measure, digits: int) -> str:
    return f"{measure.value:.{digits}f} ± {measure.error:.{digits}f}"
