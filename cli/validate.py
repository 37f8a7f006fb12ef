"""`requant validate`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import click

from requant.cli.options import located
from requant.cli.saying import say_document
from requant.cli.stages import byte_bar
from requant.cli.tables import table
from requant.cli.terminal import say, width
from requant.errors import VerifyError
from requant.printable import LONGEST_MESSAGE, printable
from requant.validation.rules import RULES, Severity

if TYPE_CHECKING:
    from requant.validation.findings import Report

_EXAMPLES: Final = """\b
Examples:
  requant validate model.gguf
  requant validate ./SmolLM2-135M --values --strict
  requant validate model.gguf --json | jq '.findings[] | .rule'
  requant validate --rules
"""

#: Findings of one rule before the rest is only counted.
_SHOWN: Final = 10


@click.command(epilog=_EXAMPLES)
@click.argument("model", required=False)
@click.option("--values", is_flag=True, help="Read every tensor, too: NaN, infinities, matrices of zeros.")
@click.option("--strict", is_flag=True, help="Exit code 5 for warnings as well.")
@click.option("--rules", is_flag=True, help="List the rules, each with its reason, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar, and nothing where nothing is found.")
def validate(model: str | None, values: bool, strict: bool, rules: bool, as_json: bool, quiet: bool) -> None:
    """Look at every rule of MODEL's format and family, and list all that are broken; exit code 5 for errors.

    MODEL is a file or folder, or a model of the Hugging Face Hub. An error is what llama.cpp or the libraries refuse,
    or read wrongly; a warning is what they read otherwise than it is meant, or only some of them. What could not be
    looked at is listed, too.
    """
    if rules:
        if model is not None or values or strict:
            raise click.UsageError("--rules lists the rules, and looks at no model")
        _list_rules(as_json)
        return
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    from requant.operations.validate import validate as look

    with ExitStack() as stack:

        def begin(total: int) -> Callable[[int], object]:
            bar = stack.enter_context(byte_bar(total, "reading", quiet))
            return lambda nbytes: bar.update(nbytes)

        report = look(located(model, quiet, headers=not values), values=values, begin=begin)
    if as_json:
        say_document("validation", report.to_json())
    elif report.findings or not quiet:
        say(report_text(report))
    errors, warnings = (report.count(severity) for severity in (Severity.ERROR, Severity.WARNING))
    if errors or (strict and warnings):
        raise VerifyError(f"{report.path}: {_counts(errors, warnings)}")


def report_text(report: Report) -> str:
    """The findings by rule, each rule with its reason; then what was looked at, and what was not."""
    blocks = []
    for name in dict.fromkeys(finding.rule for finding in report.findings):
        rule = RULES[name]
        found = [finding for finding in report.findings if finding.rule == name]
        lines = [f"{rule.severity.value}: {name}"]
        lines += [f"  {printable(finding.message, LONGEST_MESSAGE)}" for finding in found[:_SHOWN]]
        left = len(found) - _SHOWN + report.more.get(name, 0)
        lines += (
            [f"  ... and {left} more (--json lists {'more' if name in report.more else 'all'})"] if left > 0 else []
        )
        lines += [f"  rule: {rule.says}", f"  else: {rule.reason}"]
        hints = dict.fromkeys(finding.hint for finding in found if finding.hint)
        lines += [f"  hint: {printable(hint, LONGEST_MESSAGE)}" for hint in list(hints)[:1]]
        blocks.append("\n".join(lines))
    counts = _counts(report.count(Severity.ERROR), report.count(Severity.WARNING))
    last = [f"{printable(str(report.path), None)}: {counts or 'nothing is wrong'}"]
    last += [f"looked at   {', '.join(map(printable, report.checked))}"] if report.checked else []
    last += [f"not at      {printable(what, LONGEST_MESSAGE)}" for what in report.unchecked]
    return "\n\n".join([*blocks, "\n".join(last)])


def _counts(errors: int, warnings: int) -> str:
    said = [f"{n} {what}{'' if n == 1 else 's'}" for n, what in ((errors, "error"), (warnings, "warning")) if n]
    return ", ".join(said)


def _list_rules(as_json: bool) -> None:
    if as_json:
        rows = [
            {"rule": r.name, "severity": r.severity.value, "about": r.about, "says": r.says, "reason": r.reason}
            for r in RULES.values()
        ]
        say_document("rules", {"rules": rows})
        return
    head = ["rule", "severity", "of a", "what must hold"]
    say(table([head, *([r.name, r.severity.value, r.about, r.says] for r in RULES.values())], width=width()))
