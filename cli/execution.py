"""Running a plan in front of a user: the bar while it works, the receipt when it is done."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from requant import system
from requant.cards import NAME as CARD
from requant.cli import interrupts
from requant.cli.saying import failure, say_document
from requant.cli.stages import byte_bar
from requant.cli.tables import count, size, table
from requant.cli.terminal import remark, say, width
from requant.cli.writing import RunOptions
from requant.encodings.exactness import integers_of
from requant.encodings.labels import short_label
from requant.errors import PlanError
from requant.execution import Options, Receipt, execute_together, existing, peak_bytes
from requant.ir import Json
from requant.losses import LossGroup, LossKind, grouped, pattern_of
from requant.output import on_published
from requant.plan import Plan, Step
from requant.printable import printable
from requant.together import input_bytes

#: Lines for losses of one kind before the rest is only counted.
_SHOWN: Final = 16
#: Characters of a reason that are shown.
_LONGEST_DETAIL: Final = 1000


def carry_out(
    plan: Plan,
    how: RunOptions,
    *,
    measure: bool = False,
    any_value: bool = False,
    tolerated: frozenset[LossKind] = frozenset(),
) -> None:
    """What every writing command does once it has a plan: print it, or run it and print the receipt.

    measure: decode what was written and tell each tensor's error. any_value: NaN is no error. tolerated: losses that
    `--fail-on-loss` lets pass.

    How the plan was made is let go of before the work begins: with every stage of the tokenizer it takes megabytes. So
    callers hand their plan over, and keep no name for it.
    """
    if how.explain and not how.as_json:
        from requant.cli.explanation import explanation_text

        say(explanation_text(plan) + "\n")
    passes = _passes(plan, how) if how.as_json else {}
    plan = replace(plan, passes=())
    if how.html is not None:
        _check_page(plan, how.html)
    if how.dry_run and how.as_json:
        _say_plan(plan, how, passes, refusal_of(plan, tolerated) if how.fail_on_loss else None)
    elif how.dry_run:
        say(plan_text(plan, how.workers, every=how.tensors))
    if how.fail_on_loss:
        refuse_losses(plan, tolerated)
    if how.dry_run:
        if how.html is not None:
            _write_page(plan, how.html, plan_document(plan, how), how.quiet)
        return
    if not how.force and (there := existing(plan)) is not None:
        raise PlanError(f"{there} exists", hint="--force replaces it")
    system.give_back_memory()  # headers and tokenizers were parsed, tens of megabytes in small pieces
    options = Options(how.workers, how.replace_nan, measure or how.html is not None, any_value)
    receipt = run(plan, options, how.quiet, overwrite=how.force, resume=how.resume, dask=how.dask)
    if how.as_json:
        say_document("receipt", {**receipt_document(plan, receipt, steps=measure), **passes})
    elif not how.quiet:
        say((errors_text(plan, receipt) + "\n\n" if measure else "") + receipt_text(plan, receipt))
    if how.html is not None:
        try:
            _write_page(plan, how.html, receipt_document(plan, receipt, steps=True), how.quiet)
        except PlanError as error:
            raise PlanError(f"{error} (of the page)", hint="the model is complete") from error


def _say_plan(plan: Plan, how: RunOptions, passes: Mapping[str, Json], refusal: PlanError | None) -> None:
    document: dict[str, object] = {**plan_document(plan, how), **passes}
    if refusal is not None:
        document["error"] = failure("PlanError", str(refusal), refusal.hint, refusal.exit_code)
    say_document("plan", document)


def plan_document(plan: Plan, how: RunOptions) -> dict[str, object]:
    """What `--dry-run --json` says of a plan."""
    return {**plan.to_json(), "peak_bytes": peak_bytes(plan, how.workers)}


def receipt_document(plan: Plan, receipt: Receipt, *, steps: bool) -> dict[str, object]:
    """What `--json` says of what was done."""
    document: dict[str, object] = {**receipt.to_json(), "losses": [loss.to_json() for loss in plan.losses]}
    document["hints"] = list(plan.hints)
    if steps:
        document["steps"] = [step.to_json() for step in plan.steps]
    document["removed"] = list(plan.removed)
    document |= plan.rounding_json()
    document |= {"parameters": plan.weights, "bits_per_weight": round(plan.bits_per_weight, 4)}
    return document if plan.expected_kl is None else document | {"expected_kl": plan.expected_kl}


def _check_page(plan: Plan, path: Path) -> None:
    from requant.cli.pages.writing import check_page

    check_page(path)
    if path.resolve() in {(plan.layout.root / file.name).resolve() for file in plan.layout.files}:
        raise PlanError(f"--html: {path} is a file of the model", hint="choose another name")


def _write_page(plan: Plan, path: Path, document: Mapping[str, object], quiet: bool) -> None:
    from requant.cli.pages.receipt import receipt_page
    from requant.cli.pages.writing import write_page

    said = write_page(path, receipt_page(document, str(_destination(plan))))
    if not quiet:
        remark(said)


def _destination(plan: Plan) -> Path:
    """The file, if it is only one but for what tells of it; else the folder."""
    root, (names, _) = plan.layout.root, _told_apart(plan)
    return root / names[0] if len(names) == 1 else root


def _told_apart(plan: Plan) -> tuple[list[str], list[str]]:
    """The names of a plan's files, and of those that only tell of a model: its card, and what Ollama reads."""
    names = [file.name for file in plan.layout.files]
    beside = [name for name in names if name == CARD or name.endswith("Modelfile")]
    return [name for name in names if name not in beside], beside


def _passes(plan: Plan, how: RunOptions) -> dict[str, Json]:
    """What `--explain` adds."""
    if not how.explain:
        return {}
    from requant.passes.explained import explained

    return {"passes": [one.to_json() for one in explained(plan.passes)]}


def run(
    plan: Plan, options: Options, quiet: bool, *, overwrite: bool, resume: bool = False, dask: str | None = None
) -> Receipt:
    """Execute with a progress bar (bytes of input, rate, ETA) on stderr; it shows after half a second."""
    return run_together((plan,), options, quiet, overwrite=overwrite, resume=resume, dask=dask)[0]


def run_together(
    plans: Sequence[Plan],
    options: Options,
    quiet: bool,
    *,
    overwrite: bool,
    resume: bool = False,
    dask: str | None = None,
) -> tuple[Receipt, ...]:
    """The same for several plans that read the same model."""
    bar = byte_bar(input_bytes(plans), "converting", quiet)
    on_published.append(interrupts.completed)
    if resume:
        interrupts.kept()
    try:
        with bar, telling_of_compilation(quiet), interrupts.cleaning_up():
            return execute_together(plans, options, bar.update, overwrite=overwrite, resume=resume, dask=dask)
    finally:
        on_published.remove(interrupts.completed)


@contextmanager
def measuring(quiet: bool) -> Iterator[None]:
    """While a plan is made: a bar on stderr if layers are measured for more than a second (EXL2 does that)."""
    from tqdm import tqdm

    from requant.measuring import on_measured

    bar: tqdm[None] = tqdm(
        unit="layer",
        delay=1,
        disable=quiet or not sys.stderr.isatty(),
        desc="measuring",
        leave=False,
    )

    def tell(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    on_measured.append(tell)
    try:
        with bar, telling_of_compilation(quiet):
            yield
    finally:
        on_measured.remove(tell)


@contextmanager
def telling_of_compilation(quiet: bool) -> Iterator[None]:
    """The first run on a machine compiles each kernel, which takes seconds; the user should know what they go to, and
    why the next run may have to do it again."""
    from requant.kernels_cpu import on_compile, on_notice

    told: list[str] = []

    def notice(text: str) -> None:
        if not quiet:
            remark(text)

    def tell(name: str) -> None:
        if not told and not quiet:
            remark("compiling kernels; this happens once on a machine, and the result is kept")
        told.append(name)

    on_compile.append(tell)
    on_notice.append(notice)
    try:
        yield
    finally:
        on_compile.remove(tell)
        on_notice.remove(notice)


def plan_text(plan: Plan, workers: int, *, every: bool = False) -> str:
    """A plan for people: the totals, what is lost, the files, and what is done to the tensors of each kind.

    every: to each tensor, where the layers of a model would share a line.
    """
    files = [["file", "bytes"]] + [[file.name, count(file.nbytes)] for file in plan.layout.files]
    totals = [
        f"reads {size(plan.input_bytes)}, writes {size(plan.layout.nbytes)} to {_path(plan.layout.root)}",
        f"{count(plan.weights)} parameters at {plan.bits_per_weight:.3f} bits per weight{_expected(plan)}",
        f"tensors: {plan.fidelities_text()}",
        f"buffers take at most {size(peak_bytes(plan, workers))} with {workers} threads",
        *([f"removes {_few(plan.removed)}"] if plan.removed else []),
    ]
    blocks = ["\n".join(totals) + losses_text(plan), table(files, right=frozenset({1}), width=width())]
    return "\n\n".join([*blocks, _every_step(plan) if every else _steps_of_a_kind(plan)])


def _expected(plan: Plan) -> str:
    return "" if plan.expected_kl is None else f", expected KL divergence {plan.expected_kl:.5f}"


def _every_step(plan: Plan) -> str:
    rows = [["does", "from", "to", "bytes", "tensor"]]
    for step in plan.steps:
        rows.append([*_said(step), count(step.target.nbytes), _names(step)])
    return table(rows, right=frozenset({3}), width=width())


def _steps_of_a_kind(plan: Plan) -> str:
    """Those that differ in numbers only share a line, with how many they are."""
    kinds: dict[tuple[str, ...], list[Step]] = {}
    for step in plan.steps:
        kinds.setdefault((*_said(step), pattern_of(_names(step))), []).append(step)
    rows = [["does", "from", "to", "bytes", "count", "tensor"]]
    for (*said, pattern), steps in kinds.items():
        name = pattern if len(steps) > 1 else _names(steps[0])
        rows.append([*said, count(sum(step.target.nbytes for step in steps)), str(len(steps)), name])
    return table(rows, right=frozenset({3, 4}), width=width())


def _said(step: Step) -> list[str]:
    return [_deed(step), _from(step), short_label(step.target.encoding)]


def receipt_text(plan: Plan, receipt: Receipt) -> str:
    """What was done."""
    written = sum(receipt.files.values())
    names, beside = _told_apart(plan)
    number = f" {len(plan.layout.files)} files," if len(names) > 1 else ""
    where = f"{', '.join([_path(_destination(plan)), *(beside if not number else [])])}:{number}"
    written_to = f"{where} {size(written)} in {receipt.seconds:.1f} s"
    if not plan.steps:
        return written_to + losses_text(plan)
    rate = receipt.bytes_read / max(receipt.seconds, 1e-9)
    stored = f"{count(plan.weights)} parameters at {plan.bits_per_weight:.3f} bits per weight{_expected(plan)}"
    lines = [
        f"{written_to} (read {size(rate)}/s)",
        f"{stored}; tensors: {plan.fidelities_text()}",
    ]
    if receipt.replaced:
        total = sum(receipt.replaced.values())
        lines.append(f"{count(total)} values that were not finite were replaced, in {_few(receipt.replaced)}")
    if receipt.cluster:
        lines.append(f"done by {receipt.cluster['workers']} workers in {receipt.cluster['tasks']} tasks")
    if receipt.fetched:
        lines.append(_fetched_text(receipt.fetched))
    if receipt.resumed:
        lines.append(f"went on from {size(receipt.resumed)} that were finished, each run of which was checked")
    if plan.removed:
        lines.append(f"removed {_few(plan.removed)}")
    return "\n".join(lines) + losses_text(plan)


def _fetched_text(fetched: Mapping[str, int]) -> str:
    checked = f"{fetched['files_checked']} of {fetched['files']} files compared with the SHA-256 that the Hub says"
    again = f"; {fetched['repeated_requests']} requests repeated" if fetched["repeated_requests"] else ""
    return f"fetched {size(fetched['bytes'])}; {checked}{again}"


def errors_text(plan: Plan, receipt: Receipt) -> str:
    """For each tensor what was done to its numbers, and the relative error where they were rounded."""
    rows = [["did", "from", "to", "relative error", "tensor"]]
    for step in plan.steps:
        error = receipt.errors.get(step.target.name)
        said = "" if error is None else f"{error:.5f}"
        rows.append([*_said(step), said, _names(step)])
    return table(rows, right=frozenset({3}), width=width())


def losses_text(plan: Plan) -> str:
    """What is not as it was, or not as it was asked for, and what fits better.

    The layers of a model that share a fate share a line.
    """
    kinds: dict[LossKind, list[LossGroup]] = {}
    for group in grouped(plan.losses):
        kinds.setdefault(group.kind, []).append(group)
    lines = []
    for kind, groups in kinds.items():
        lines.append(f"{kind.value} ({sum(group.count for group in groups)}):")
        lines += [f"  {_group_text(group)}" for group in groups[:_SHOWN]]
        if len(groups) > _SHOWN:
            lines.append(f"  ... and {len(groups) - _SHOWN} more lines (--dry-run --json lists everything)")
    lines += [f"hint: {printable(hint)}" for hint in plan.hints]
    return "\n\n" + "\n".join(lines) if lines else ""


def _group_text(group: LossGroup) -> str:
    """`vision_tower.* (34, 171 MB): why`."""
    amounts = [str(group.count)] if group.count > 1 else []
    amounts += [size(group.nbytes)] if group.nbytes else []
    about = f" ({', '.join(amounts)})" if amounts else ""
    return f"{printable(group.pattern)}{about}: {printable(group.detail, _LONGEST_DETAIL)}"


def refuse_losses(plan: Plan, tolerated: frozenset[LossKind] = frozenset()) -> None:
    """`--fail-on-loss`: any loss is an error, told before anything is written."""
    refusal = refusal_of(plan, tolerated)
    if refusal is not None:
        remark(losses_text(plan).strip())
        raise refusal


def refusal_of(plan: Plan, tolerated: frozenset[LossKind]) -> PlanError | None:
    """The error that losses are to `--fail-on-loss`, if there are any; what others load is none of ours."""
    refused = [loss for loss in plan.losses if loss.kind not in tolerated | {LossKind.UNLOADED}]
    if not refused:
        return None
    return PlanError(
        f"{len(refused)} things would be lost or changed", hint="leave out --fail-on-loss to convert all the same"
    )


def _few(names: Iterable[str]) -> str:
    """Names in a line, and how many more there are."""
    shown = [printable(name) for name in names]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


def _path(path: Path) -> str:
    return printable(str(path), None)


def _deed(step: Step) -> str:
    if not step.rounds_twice:
        return step.fidelity.value
    if step.keeps_codes:
        return "round zeros" if integers_of(step.sources[0]) else "round scale"
    return "round twice"


def _from(step: Step) -> str:
    return "+".join(dict.fromkeys(short_label(encoding) for encoding in step.sources))


def _names(step: Step) -> str:
    """The tensor, and what its values are where they are not simply those of the tensor of that name."""
    values = step.values.explain()
    return step.target.name if values == step.target.name else f"{step.target.name} = {values}"
