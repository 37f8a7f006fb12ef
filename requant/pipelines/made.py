"""A pipeline planned, and carried out: stages one after another, then one plan that writes the output."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from requant import __version__
from requant.calibration.naming import ggml_moves
from requant.divergence_cache import Cache
from requant.errors import PlanError, VerifyError
from requant.execution import Options, Receipt, execute, existing
from requant.formats.imatrix.statistics import read_statistics
from requant.hessians import Hessian
from requant.importance import Importance, Measured
from requant.ir import Json
from requant.layout import Format
from requant.operations.allocate import Measuring
from requant.operations.calibrate import check_installed, plan_statistics
from requant.operations.convert import Request
from requant.pipelines.flow import Flow, Opened, dense
from requant.pipelines.quantizing import Quantize
from requant.pipelines.recipe import Recipe
from requant.pipelines.stages import Calibrate, Check
from requant.pipelines.work import Work, address, digest_of, files_of, kept, put
from requant.plan import Plan
from requant.sources import Bytes, Identity
from requant.statistics import Provenance, Statistics

#: Version of what is kept: another one finds nothing of the old.
_KEPT: Final = 1

Progress = Callable[[str, float], None]
Executed = Callable[[Plan, bool], Receipt]
Checked = Callable[[Path, Check], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Planned:
    """A pipeline before anything is written.

    told: what each stage has decided. pending: calibrations that are yet to be made, by the names of their files; types
    are chosen as they will be, and nothing is rounded yet. plan: what writes the output.
    """

    told: tuple[str, ...]
    pending: tuple[str, ...]
    plan: Plan


@dataclass
class Pipeline:
    """recipe, opened: which models it means. target: of the output. work: what is kept beside it.

    progress: of calibrations. rehearsal: nothing is measured, and what was measured is taken where it is there.
    """

    recipe: Recipe
    opened: Opened
    texts: Callable[[str], str]
    target: Format
    work: Work
    progress: Progress = lambda stage, fraction: None
    rehearsal: bool = False
    reused: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    done: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def output(self) -> Path:
        """What is written."""
        return Path(self.recipe.output)

    @property
    def receipt(self) -> Path:
        """What tells of it, beside it."""
        return self.output.with_name(f"{self.output.name}.receipt.json")

    @property
    def check(self) -> Check | None:
        """What is asked of the output."""
        return next((stage for stage in self.recipe.stages if isinstance(stage, Check)), None)

    def planned(self) -> Planned:
        """Decide everything; calibrations are made now, unless this is a rehearsal."""
        flow = Flow(None) if self.recipe.model is None else Flow.of(self.recipe.model, self.opened)
        for stage in self.recipe.stages:
            flow = stage.apply(flow, self)
            self.done.append({"stage": stage.name, "options": dict(options_of(stage.options))})
        quantize = next((stage for stage in self.recipe.stages if isinstance(stage, Quantize)), None)
        if quantize is None:
            plan = flow.plan(self.target, self.output, Request())
        else:
            plan = quantize.plan(flow, self.target, self.output, self._losses)
        return Planned(flow.told, tuple(self.pending), plan)

    # What stages are given

    def measured(self, stage: Calibrate, flow: Flow) -> Statistics:
        """From the file that its content names; made now where there is none."""
        check_installed()
        plan = dense(flow)
        texts = [digest_of(Path(path)) for path in stage.texts]
        files = sorted(self.work.digests(files_of(plan)).values())
        values = [(step.target.name, step.target.shape, step.values.explain()) for step in plan.steps]
        name = f"calibrate-{address(_KEPT, __version__, self.done, stage.options, texts, files, values)[:16]}.gguf"
        place = self.work.folder / name
        if place.exists():
            self.reused.append(name)
        elif self.rehearsal:
            self.pending.append(name)
            return _rehearsed(plan, stage.hessians)
        else:
            self.work.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="requant-calibrate-") as folder:
                found = stage.found(flow, self.texts, self.progress, Path(folder))
                execute(plan_statistics(found, place), Options(1))
        found = read_statistics(place)
        return replace(found, importance=replace(found.importance, source=name))

    def _losses(self, found: Statistics) -> Measuring:
        """What types cost, kept beside the statistics that tell it."""
        return Cache(self.work.folder / found.importance.source)

    # Carrying it out

    def run(self, planned: Planned, executed: Executed, checked: Checked, *, overwrite: bool) -> dict[str, Any]:
        """Write the output, unless an earlier process has, check it, and write the receipt, which is returned.

        Raises `PlanError` for an output that is there and is none of this pipeline's, `VerifyError` for one that fails
        its check.
        """
        inputs = self.work.digests(files_of(planned.plan))
        told = self._told(planned.plan, inputs)
        if (whole := self._finished(planned.plan, told)) is not None:
            return whole
        if not self._written(planned.plan, told):
            there = existing(planned.plan)
            if there is not None and not overwrite:
                raise PlanError(f"{there} exists", hint="--force replaces it")
            before = _identity(planned.plan)
            self.work.write("begun.json", {"address": told["address"], "before": before})
            executed(planned.plan, overwrite)
        told["outputs"] = _digests(planned.plan)
        if (check := self.check) is not None:
            report = checked(self.output, check)
            told["check"] = _lasting(report)
            if report["failures"]:
                raise VerifyError(f"{self.output}: {'; '.join(report['failures'])}")
        put(self.receipt, json.dumps(told, indent=1) + "\n")
        return told

    def _told(self, plan: Plan, inputs: Mapping[Path, str]) -> dict[str, Any]:
        """The receipt but for what comes out: the same for the same recipe, files and version of requant."""
        said: list[Json] = [
            {"file": str(path), "bytes": path.stat().st_size, "sha256": digest} for path, digest in inputs.items()
        ]
        settings = {name: str(value) for name, value in self.recipe.settings.items()}
        layout = [(file.name, file.nbytes, address(file.head.hex())) for file in plan.layout.files]
        values = [(step.target.name, step.target.encoding.label, step.values.explain()) for step in plan.steps]
        own = address(_KEPT, __version__, self.done, sorted(inputs.values()), layout, values)
        expected = {} if plan.expected_kl is None else {"expected_kl": plan.expected_kl}
        return {
            "requant": __version__,
            "address": own,
            **expected,
            "recipe": self.recipe.text,
            "settings": settings,
            "inputs": said,
            "stages": list(self.done),
        }

    def _finished(self, plan: Plan, told: Mapping[str, Any]) -> dict[str, Any] | None:
        """The receipt of an earlier process that has made the same, if its output is still what it tells."""
        found = kept(self.receipt)
        if found.get("address") != told["address"]:
            return None
        there = all((plan.layout.root / file.name).is_file() for file in plan.layout.files)
        return found if there and found.get("outputs") == _digests(plan) else None

    def _written(self, plan: Plan, told: Mapping[str, Any]) -> bool:
        """Whether an earlier process has written the output, whole, and was killed before it could say so.

        Files appear when they are whole: one that is there, and was not when that process began, is its.
        """
        begun, now = self.work.read("begun.json"), _identity(plan)
        whole = all(
            (path := plan.layout.root / file.name).is_file() and path.stat().st_size == file.nbytes
            for file in plan.layout.files
        )
        return whole and begun.get("address") == told["address"] and now is not None and begun.get("before") != now


def options_of(options: object) -> Mapping[str, Any]:
    """What a recipe says of a stage, where it is one word, too."""
    return options if isinstance(options, dict) else {"": options}


def _lasting(report: Any) -> Any:
    """A report without the times that it took, so that the same output has the same receipt."""
    if isinstance(report, dict):
        return {key: _lasting(one) for key, one in report.items() if key not in ("seconds", "tokens_per_second")}
    return [_lasting(one) for one in report] if isinstance(report, list | tuple) else report


def _identity(plan: Plan) -> list[int] | None:
    """Which file is the output, or the first of it."""
    path = plan.layout.root / plan.layout.files[0].name
    if not path.is_file():
        return None
    found = Identity.of(path.stat())
    return [found.device, found.inode, found.nbytes, found.modified]


def _digests(plan: Plan) -> list[Json]:
    paths = [(file.name, plan.layout.root / file.name) for file in plan.layout.files]
    return [{"file": name, "bytes": path.stat().st_size, "sha256": digest_of(path)} for name, path in paths]


@dataclass(frozen=True, slots=True)
class _Unmeasured:
    """Σ x xᵀ that is yet to be measured: of columns that are all alike, and each by itself."""

    columns: int

    @property
    def nbytes(self) -> int:
        """Of float32 [columns, columns]."""
        return 4 * self.columns * self.columns

    def read_into(self, start: int, out: Bytes) -> None:
        """Stretches begin and end at whole numbers."""
        numbers = out.view("<f4")
        numbers[...] = 0
        numbers[-(start // 4) % (self.columns + 1) :: self.columns + 1] = 1


def _rehearsed(plan: Plan, with_hessians: bool) -> Statistics:
    """Every column alike, of every matrix: what chooses types as a calibration that is yet to be made will."""
    entries, hessians = {}, {}
    for move in ggml_moves(plan):
        if len(move.shape) > 1:
            matrices, columns = move.shape[-3] if len(move.shape) > 2 else 1, move.shape[-1]
            entries[move.name] = Measured(np.ones((matrices, columns), np.float32), np.ones(matrices, np.int64))
            hessians[move.name] = (Hessian(move.name, columns, 1, _Unmeasured(columns)),) * matrices
    return Statistics(Importance(entries), Provenance("", (), 0), hessians=hessians if with_hessians else {})
