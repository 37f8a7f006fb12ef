"""EXL2: for a target of bits per weight, the widths of every layer, chosen by what each would cost it.

The options are exllamav2's (`conversion/qparams.py`, `measure.py`); the error of each is measured on the weights, and
a multiple-choice knapsack spends the bits where they save most. What is spared is the share of a layer's weights that
is error; of its outputs with an importance matrix; and with gradients the divergence that is predicted of it
(`requant.divergence`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import codec_for
from requant.digits import whole
from requant.encodings import F16, Dense, Encoding
from requant.encodings.exl2 import PADDING, Exl2, exl2_groups
from requant.errors import PlanError
from requant.expressions import Context, Form
from requant.importance import Importance
from requant.ir import Json
from requant.losses import Loss, LossKind
from requant.measuring import on_measured
from requant.plan import Move
from requant.schemes.linear import Applied, is_linear
from requant.schemes.scheme import Scheme
from requant.system import processors

#: Outputs of a layer that are looked at.
_SAMPLE: Final = 128

#: What attention can cost (q, k, v, o) and what an MLP can (gate, up, down), from little to much.
#: "4/3@.1 g128": a tenth of the rows in 4 bits, the rest in 3, in groups of 128.
_ATTENTION: Final = (
    "3/2@.05 g64, 3/2@.05 g64, 3/2@.05 g64, 3/2@.05 g64",
    "3/2@.1 g64, 3/2@.1 g64, 3/2@.25 g64, 3/2@.1 g64",
    "3/2@.1 g64, 3/2@.1 g64, 4/3@.1 g128, 3/2@.1 g64",
    "3/2@.1 g64, 3/2@.1 g64, 4/3@.1 g128, 4/3@.1 g128",
    "4/3@.1 g128, 4/3@.1 g128, 4/3@.1 g128, 4/3@.1 g128",
    "4/3@.1 g128, 4/3@.1 g128, 4/3@.1 g64, 4/3@.1 g128",
    "4 g128, 4 g128, 4 g128, 4 g128",
    "4 g128, 4 g128, 4 g64, 4 g128",
    "4 g64, 4 g64, 4 g32, 4 g64",
    "4 g32, 4 g32, 4 g32, 4 g32",
    "5/4@.1 g128, 5/4@.1 g128, 5/4@.1 g64, 5/4@.1 g128",
    "5/4@.1 g64, 5/4@.1 g64, 5/4@.1 g32, 5/4@.1 g64",
    "5/4@.1 g64, 5/4@.1 g64, 5 g64, 5/4@.1 g64",
    "5/4@.1 g32, 5/4@.1 g32, 5 g32, 5/4@.1 g32",
    "6/5@.1 g128, 6/5@.1 g128, 6 g128, 6/5@.1 g128",
    "6/5@.1 g32, 6/5@.1 g32, 6 g32, 6/5@.1 g32",
    "6 g128, 6 g128, 6 g128, 6 g128",
    "6 g32, 6 g32, 8 g32, 6 g32",
    "8 g128, 8 g128, 8 g128, 8 g128",
)
_MLP: Final = (
    "3/2@.05 g64, 3/2@.05 g64, 6/3/2@.05/.2 g32/64/64",
    "3/2@.1 g64, 3/2@.25 g64, 6/3/2@.05/.2 g32/64/64",
    "3/2@.1 g64, 3/2@.3 g64, 5/3@.05 g32",
    "3/2@.1 g64, 3/2@.3 g64, 5/4@.05 g32",
    "4/3@.1 g128, 4/3@.25 g128, 8/4/3@.05/.1 g32/128/128",
    "4/3@.1 g32, 4/3@.25 g32, 8/4/3@.05/.1 g32",
    "4/3@.1 g32, 4/3@.25 g32, 8/4@.05 g32/128",
    "4 g128, 4 g32, 8/4@.05 g32/128",
    "4 g32, 4 g32, 8/4@.05 g32/32",
    "5/4@.1 g128, 5/4@.25 g128, 8/5/4@.05/.1 g32/128/128",
    "5/4@.1 g32, 5/4@.25 g32, 8/5/4@.05/.1 g32",
    "6/5@.1 g128, 6/5@.25 g128, 8/6/5@.05/.1 g32/128/128",
    "6/5@.1 g32, 6/5@.25 g32, 8/6/5@.05/.1 g32",
    "6 g128, 6 g128, 8/6@.05 g32/128",
    "8/6@.1 g128, 8/6@.1 g128, 8/6@.15 g128",
    "8/6@.1 g128, 8/6@.1 g128, 8 g128",
    "8 g128, 8 g128, 8 g128",
)
_HEADS: Final = {
    2: "4/2@.3 g32",
    3: "4/3@.15 g32",
    4: "6/4@.15 g32",
    5: "6/5@.15 g128",
    6: "8/6@.15 g128",
    8: "8 g128",
}

#: Linear layers of one slot, in the order of the options above; the slot they make together.
_PLACES: Final = {
    **{f"{name}_proj": ("attention", place) for place, name in enumerate("qkvo")},
    **{f"{name}_proj": ("mlp", place) for place, name in enumerate(("gate", "up", "down"))},
}
_LINEAR: Final = re.compile(r"(?:^|\.)layers\.(\d{1,9})\.(?:.*\.)?(\w+)\.weight$")


@dataclass(frozen=True, slots=True)
class Option:
    """What a slot can be: the encodings of its moves (by index), what they cost and what they lose.

    bits: stored bits of all of them. error: sum over them of what each loses.
    """

    encodings: Mapping[int, Exl2]
    bits: int
    error: float


@dataclass(frozen=True, slots=True)
class Exl2Scheme(Scheme):
    """bits: target bits per weight of attention and MLP together; None keeps layers that are EXL2 already, else 4.

    head_bits: width of the output matrix.
    importance: by the names of the moves; the errors of inputs that matter more weigh more, and of outputs, if it says
    which those are.
    guessed: errors are not measured, but a quarter for each bit more.
    """

    bits: float | None
    head_bits: int = 6
    importance: Importance | None = None
    guessed: bool = False

    def weighing(self, importance: Importance) -> Exl2Scheme:
        """The same with an importance matrix."""
        return replace(self, importance=importance)

    @property
    def splits_fused(self) -> bool:
        """exllamav2 stores the projections apart."""
        return True

    @property
    def measures(self) -> bool:
        """The options of every layer are tried."""
        return not self.guessed

    def rehearsed(self) -> Exl2Scheme:
        """Without a look at the weights: the budget is spent all the same."""
        return replace(self, guessed=True)

    def apply(self, moves: Sequence[Move], config: Mapping[str, Json]) -> Applied:
        """Measure every layer's options, and choose; the embedding, norms and what is no linear layer become F16."""
        slots = _slots(moves)
        if self.bits is None and all(
            isinstance(t.encoding, Exl2) for _, slot in slots for i in slot for t in moves[i].inputs
        ):
            return _kept(moves, config)
        target, weights = self.bits or 4.0, sum(prod(moves[i].shape) for _, slot in slots for i in slot)
        budget = int(target * weights)
        options = _measured(moves, slots, self._errors(moves[i] for _, slot in slots for i in slot))
        least = sum(candidates[0].bits for candidates in options)
        if least > budget:
            raise PlanError(
                f"{target} bits per weight are too few: the least for this model is {least / weights:.2f}",
                hint=f"--to EXL2-{ceil(100 * least / weights) / 100:.2f} or more",
            )
        encodings: list[Encoding] = [_plain(move) for move in moves]
        for option in allocate(options, budget):
            for index, encoding in option.encodings.items():
                encodings[index] = encoding
        for index, move in enumerate(moves):
            if move.name == "lm_head.weight" and move.shape[1] % 32 == 0:
                encodings[index] = encoding_of(_HEADS[self.head_bits], move.shape[1])
        quantization: dict[str, Json] = {
            "quant_method": "exl2",
            "version": "0.3.2",
            "bits": target,
            "head_bits": self.head_bits,
            "calibration": self._calibration(),
        }
        losses = [
            Loss(LossKind.SUBSTITUTED, move.name, f"{encoding.label}: EXL2 stores inputs and outputs by the 32")
            for move, encoding in zip(moves, encodings, strict=True)
            if is_linear(move) and not isinstance(encoding, Exl2)
        ]
        return Applied(tuple(encodings), quantization, losses=tuple(losses))

    def _calibration(self) -> dict[str, Json]:
        """What config.json says of it."""
        if (said := self.importance) is None:
            return {"rows": 0, "length": 0, "dataset": "none: rounded by the weights alone"}
        return {"rows": said.chunks, "length": said.chunk_tokens, "dataset": ", ".join(said.datasets)}

    def _errors(self, layers: Iterable[Move]) -> Callable[[Move, Sequence[str]], dict[str, float]]:
        """What each parameter set costs a layer; in nats, if gradients of all that are to be compared are known."""
        if self.guessed:
            return lambda move, texts: {text: _guess(move, text) * prod(move.shape) for text in texts}
        known = self.importance or Importance({})
        predicted = all(move.name in known.entries and move.name in known.outputs for move in layers)

        def errors(move: Move, texts: Sequence[str]) -> dict[str, float]:
            (outputs, inputs), importance = move.shape, known.weights_for(move.name, move.shape)
            signal, squares = _squares(move, texts, importance)
            scale = outputs * known.outputs[move.name] / 2 if predicted else outputs * inputs / (signal or 1.0)
            return {text: scale * square for text, square in squares.items()}

        return errors


def exl2(parameters: Sequence[str]) -> Exl2Scheme:
    """`EXL2-4.0`, or with the head's width `EXL2-4.0-8`."""
    try:
        bits = float(parameters[0]) if parameters else None
        head = whole(parameters[1]) if len(parameters) > 1 else 6
    except ValueError:
        bits, head = 0.0, 6
    if (bits is not None and not 2 <= bits <= 8.2) or head is None or head not in _HEADS or len(parameters) > 2:
        raise PlanError(
            f"EXL2-{'-'.join(parameters)} is not understood",
            hint="EXL2-4.0: bits per weight from 2 to 8; EXL2-4.0-8: with the output matrix in 8 bits",
        )
    return Exl2Scheme(bits, head)


def _kept(moves: Sequence[Move], config: Mapping[str, Json]) -> Applied:
    """Everything that is EXL2 as it is, and config.json's word on it."""
    said = config.get("quantization_config")
    quantization = said if isinstance(said, dict) else {"quant_method": "exl2"}
    encodings = (move.inputs[0].encoding for move in moves)
    return Applied(
        tuple(e if isinstance(e, Exl2) else _plain(move) for e, move in zip(encodings, moves, strict=True)),
        quantization,
    )


@cache
def encoding_of(text: str, inputs: int) -> Exl2:
    """The groups of a layer of `inputs` rows for one parameter set, as exllamav2 counts them.

    >>> encoding_of("6/3/2@.05/.2 g32/64/64", 704).groups
    ((6, 32, 2), (3, 64, 3), (2, 64, 7))
    """
    widths_text, _, sizes_text = text.partition(" g")
    names, _, shares_text = widths_text.partition("@")
    widths = [int(name) for name in names.split("/")]
    shares = [float(share) for share in shares_text.split("/")] if shares_text else []
    shares.append(1.0)  # the last width takes what is left
    sizes = [int(size) for size in sizes_text.split("/")]
    if len(sizes) == 1:
        sizes *= len(widths)
    left, groups = inputs, list[tuple[int, int]]()
    for width, share, size in zip(widths, shares, sizes, strict=True):
        for _ in range(ceil(min(inputs * share, left) / size)):
            rows = min(size, left)
            groups.append((width, rows))
            left -= rows
    return Exl2(exl2_groups(groups))


def stored_bits(encoding: Exl2, outputs: int) -> int:
    """Bits of one layer as exllamav2 counts them: everything but the padding."""
    codes = sum(bits * rows * count for bits, rows, count in encoding.groups)
    return outputs * codes + encoding.count * (16 + 32 + 4 * outputs) + 32 * encoding.rows


def allocate(options: Sequence[Sequence[Option]], budget: int) -> list[Option]:
    """One option a slot with the least sum of errors within `budget` bits: a Lagrange bisection, then greedily more."""
    low, high = 0.0, 1.0
    while sum(option.bits for option in _cheapest(options, high)) > budget:
        low, high = high, high * 4
    for _ in range(60):
        middle = (low + high) / 2
        fits = sum(option.bits for option in _cheapest(options, middle)) <= budget
        low, high = (low, middle) if fits else (middle, high)
    chosen = _cheapest(options, high)
    left = budget - sum(option.bits for option in chosen)
    while True:
        gains = [
            ((now.error - better.error) / (better.bits - now.bits), slot, better)
            for slot, now in enumerate(chosen)
            for better in options[slot]
            if better.error < now.error and 0 < better.bits - now.bits <= left
        ]
        if not gains:
            return chosen
        _, slot, better = max(gains, key=lambda gain: gain[0])
        left -= better.bits - chosen[slot].bits
        chosen[slot] = better


def _cheapest(options: Sequence[Sequence[Option]], price: float) -> list[Option]:
    return [min(candidates, key=lambda option: option.error + price * option.bits) for candidates in options]


def _slots(moves: Sequence[Move]) -> list[tuple[str, dict[int, int]]]:
    """(kind, move index -> place in the option) of every layer's attention and MLP."""
    slots: dict[tuple[int, str], dict[int, int]] = {}
    for index, move in enumerate(moves):
        match = _LINEAR.search(move.name)
        if match is None or not is_linear(move):
            continue
        if match[2] not in _PLACES:
            raise PlanError(
                f"{move.name}: exllamav2 has no layer {match[2]!r}",
                hint="EXL2 is written for models with the layers q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, "
                "down_proj",
            )
        kind, place = _PLACES[match[2]]
        if move.shape[1] % 32 or move.shape[0] % PADDING:
            continue
        slots.setdefault((int(match[1]), kind), {})[index] = place
    if not slots:
        raise PlanError("there is no linear layer that EXL2 could store", hint="is this a language model?")
    return [(kind, slots[layer, kind]) for layer, kind in sorted(slots)]


def _measured(
    moves: Sequence[Move],
    slots: Sequence[tuple[str, dict[int, int]]],
    errors_of: Callable[[Move, Sequence[str]], dict[str, float]],
) -> list[list[Option]]:
    """The options of every slot, from cheap to dear."""
    tables = {kind: [[part.strip() for part in row.split(",")] for row in rows] for kind, rows in _OPTIONS.items()}
    wanted = [
        (index, sorted({row[place] for row in tables[kind]})) for kind, slot in slots for index, place in slot.items()
    ]
    errors: dict[tuple[int, str], float] = {}
    done = 0

    def measure(item: tuple[int, list[str]]) -> tuple[int, dict[str, float]]:
        index, texts = item
        return index, errors_of(moves[index], texts)

    with ThreadPoolExecutor(processors()) as pool:
        for index, found in pool.map(measure, wanted):
            errors |= {(index, text): error for text, error in found.items()}
            done += 1
            for tell in on_measured:
                tell(done, len(wanted))
    result = []
    for kind, slot in slots:
        options = []
        for row in tables[kind]:
            encodings = {index: encoding_of(row[place], moves[index].shape[1]) for index, place in slot.items()}
            bits = sum(stored_bits(encoding, moves[index].shape[0]) for index, encoding in encodings.items())
            error = sum(errors[index, row[place]] for index, place in slot.items())
            options.append(Option(encodings, bits, error))
        result.append(sorted(options, key=lambda option: option.bits))
    return result


_OPTIONS: Final = {"attention": _ATTENTION, "mlp": _MLP}


def _guess(move: Move, text: str) -> float:
    outputs, inputs = move.shape
    return float(4.0 ** -(stored_bits(encoding_of(text, inputs), outputs) / (outputs * inputs)))


def _squares(
    move: Move, texts: Sequence[str], importance: NDArray[np.float32] | None
) -> tuple[float, dict[str, float]]:
    """Of a layer's outputs and of their errors for each parameter set: means over a sample, inputs by importance."""
    values = _sample(move)
    weights = np.ones(move.shape[1]) if importance is None else importance.reshape(-1).astype(np.float64)
    errors = {}
    for text in texts:
        encoding = encoding_of(text, values.shape[1])
        parts = {name: np.zeros(part.shape, part.dtype.numpy) for name, part in encoding.parts(values.shape).items()}
        codec, again = codec_for(encoding), np.empty_like(values)
        codec.encode(values, parts, 0, importance)
        codec.decode(parts, again)
        errors[text] = float(np.square(again - values, dtype=np.float64).mean(axis=0) @ weights)
    return float(np.square(values, dtype=np.float64).mean(axis=0) @ weights), errors


def _sample(move: Move) -> NDArray[np.float32]:
    """Some outputs of a layer [outputs, inputs], spread over all of them."""
    node, context = move.values, Context()
    granule, total = node.granule, node.rows
    runs = max(1, min(total, _SAMPLE) // granule)
    starts = dict.fromkeys(total * n // runs // granule * granule for n in range(runs))
    found = []
    for start in starts:
        rows = range(start, min(total, start + granule))
        found.append(np.empty((len(rows), node.columns), np.float32))
        node.fill(Form.VALUES, rows, found[-1], context)
    return np.concatenate(found)


def _plain(move: Move) -> Dense:
    encoding = move.inputs[0].encoding
    return encoding if isinstance(encoding, Dense) and not encoding.dtype.is_float else F16
