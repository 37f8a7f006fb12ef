"""An adapter made of the difference of two models: of each linear layer the best product of low rank, nearly.

Randomized subspace iteration (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithms 4.4 and 5.1): the difference is
read by slabs of rows a few times, and never held; what is held has as many columns as the rank and a few more.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.adapters.recognized import CONFIG
from requant.encodings import F32
from requant.errors import PlanError
from requant.expressions import Context, Form, Node, Stored, slabs
from requant.ir import Checkpoint, Json, Naming, Tensor, TensorSpec, Typed
from requant.layout import Format, Layout, LayoutOptions, OutputFile
from requant.losses import Loss, LossKind
from requant.plan import Plan, Step
from requant.sources import Bytes, Source

Doubles = NDArray[np.float64]
_FILE: Final = "adapter_model.safetensors"
#: Columns more than the rank, and how often the difference is multiplied with its transpose in between.
_MORE: Final = 8
_ITERATIONS: Final = 2


@dataclass(slots=True)
class Difference:
    """One layer: what is `after` that was not `before`, as a product of this rank. Computed when first asked for, and
    kept until every byte of it has been given away."""

    name: str
    before: Node
    after: Node
    rank: int
    _found: tuple[Bytes, Bytes] | None = None
    _left: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read_into(self, factor: int, start: int, out: Bytes) -> None:
        """Some bytes of up [rows, rank] or down [rank, columns], in float32; the same whoever asks."""
        with self._lock:
            if self._found is None:
                up, down = (np.ascontiguousarray(one, np.float32).reshape(-1).view(np.uint8) for one in self._factors())
                self._found, self._left = (up, down), up.size + down.size
            out[...] = self._found[factor][start : start + out.size]
            self._left -= out.size
            if self._left <= 0:
                self._found = None

    def _factors(self) -> tuple[Doubles, Doubles]:
        """Both, of equal lengths."""
        rows, columns = self.before.rows, self.before.columns
        count = min(self.rank + _MORE, rows, columns)
        basis = np.random.default_rng(zlib.crc32(self.name.encode())).standard_normal((columns, count))
        for _ in range(_ITERATIONS):
            left = np.linalg.qr(self._times(basis))[0]
            basis = np.linalg.qr(self._turned_times(left))[0]
        left = np.linalg.qr(self._times(basis))[0]
        small = self._turned_times(left).T
        u, sizes, v = np.linalg.svd(small, full_matrices=False)
        roots = np.sqrt(sizes[: self.rank])
        return (left @ u[:, : self.rank]) * roots, roots[:, np.newaxis] * v[: self.rank]

    def _slabs(self) -> Iterator[tuple[range, Doubles]]:
        context = Context()
        for rows in slabs((self.before, self.after)):
            one, other = (np.empty((len(rows), self.before.columns), np.float32) for _ in range(2))
            self.before.fill(Form.VALUES, rows, one, context)
            self.after.fill(Form.VALUES, rows, other, context)
            found = other.astype(np.float64) - one
            if not np.isfinite(found).all():
                raise PlanError(f"{self.name}: values that are no numbers have no difference")
            yield rows, found

    def _times(self, matrix: Doubles) -> Doubles:
        return np.concatenate([values @ matrix for _, values in self._slabs()])

    def _turned_times(self, matrix: Doubles) -> Doubles:
        found = np.zeros((self.before.columns, matrix.shape[1]))
        for rows, values in self._slabs():
            found += values.T @ matrix[rows.start : rows.stop]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Factor:
    """The bytes of one of the two factors."""

    of: Difference
    number: int
    nbytes: int

    def read_into(self, start: int, out: Bytes) -> None:
        """Some of them."""
        self.of.read_into(self.number, start, out)


def plan_extraction(
    before: Mapping[str, Node],
    after: Mapping[str, Node],
    rank: int,
    target: Format,
    destination: Path,
    base: str,
    opened: tuple[Source, ...] = (),
) -> Plan:
    """Decide what an adapter of the difference is: for every matrix of a layer, and the head, a product of `rank`.

    base: the model before, as adapter_config.json names it. Raises `PlanError` for models of different shapes. Tensors
    that differ and are no such matrices are not in it, and told.
    """
    steps: list[Step] = []
    targets: dict[str, None] = {}
    losses: list[Loss] = []
    for name, node in before.items():
        other = after.get(name)
        if other is None or other.shape != node.shape:
            told = "lacks it" if other is None else f"has {list(other.shape)}"
            raise PlanError(f"{name!r} is {list(node.shape)} in the first model; the second {told}")
        if not _is_linear(name, node):
            losses += [_dropped(name)] if _differ(node, other) else []
            continue
        module = name.removesuffix(".weight")
        targets[module.rpartition(".")[2]] = None
        steps += _steps(module, Difference(name, node, other, min(rank, *node.shape)))
    if strange := next((name for name in after if name not in before), None):
        raise PlanError(f"{strange!r} is in the second model alone")
    if not steps:
        raise PlanError("the models have no linear layers whose difference could be an adapter")
    config = _config(base, rank, list(targets), steps)
    layout = _layout(target, steps, destination, config)
    return Plan(tuple(steps), layout, tuple(losses), opened=opened)


def _is_linear(name: str, node: Node) -> bool:
    embedding = "embed" in name or ".wte." in name or ".wpe." in name
    return len(node.shape) == 2 and name.endswith(".weight") and not embedding and "norm" not in name


def _differ(one: Node, other: Node) -> bool:
    """Whether two tensors hold different numbers; where they are not stored as they are, they may."""
    from requant.architectures.tied import same_values

    stored = one.verbatim, other.verbatim
    return stored[0] is None or stored[1] is None or not same_values(stored[0], stored[1])


def _dropped(name: str) -> Loss:
    return Loss(LossKind.TENSOR_DROPPED, name, "it differs, and is no matrix of a linear layer: not in the adapter")


def _steps(module: str, difference: Difference) -> Iterator[Step]:
    rows, columns = difference.before.shape
    rank = difference.rank
    for number, (part, shape) in enumerate((("lora_B", (rows, rank)), ("lora_A", (rank, columns)))):
        source = _Factor(difference, number, 4 * shape[0] * shape[1])
        tensor = Tensor(f"base_model.model.{module}.{part}.weight", shape, F32, {"data": source})
        yield Step(Stored(tensor), TensorSpec(tensor.name, shape, F32))


def _config(base: str, rank: int, targets: list[str], steps: list[Step]) -> bytes:
    """adapter_config.json: scales are one. Matrices that are thinner than the rank have a rank of their own."""
    ranks: dict[str, Json] = {}
    for step in steps:
        name, thin = step.target.name, step.target.shape[0]
        if ".lora_A." in name and thin < rank:
            ranks[name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")] = thin
    said: dict[str, Json] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": dict(ranks),
        "alpha_pattern": dict(ranks),
        "target_modules": [*sorted(targets)],
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    return (json.dumps(said, indent=2) + "\n").encode()


def _layout(target: Format, steps: list[Step], destination: Path, config: bytes) -> Layout:
    described: Checkpoint[TensorSpec] = Checkpoint(
        Naming.HF, "", tuple(step.target for step in steps), metadata={"format": Typed("str", "pt")}
    )
    weights = target.layout(described, destination / _FILE, LayoutOptions()).files
    return Layout(destination, (OutputFile(CONFIG, config, len(config)), *weights))
