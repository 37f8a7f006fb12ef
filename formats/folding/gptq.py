"""GPTQ: `m.qweight`, `m.qzeros`, `m.scales`, `m.g_idx` are the linear layer `m.weight`.

Shapes give the bits, `g_idx` the groups, the words of `qzeros` how zeros are written; the configuration is asked where
they leave something open, and a remark is made where it is wrong. Nothing but `g_idx`, `qzeros` and a few words of
asymmetric layers is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.encodings.awq import Awq, Marlin
from requant.encodings.gptq import OPEN_ZEROS, PLANAR_BITS, Gptq, Order, Zeros
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.formats.folding.gptq_config import GptqConfig, Rule
from requant.formats.folding.gptq_zeros import damaged_words, first_codes, read_words, recognize
from requant.formats.folding.pool import Pool
from requant.formats.folding.turned import turn
from requant.ir import Json, Tensor, TensorSpec
from requant.sources import read

#: The longest row whose group map is read.
_MAX_INPUTS: Final = 1 << 22
#: What is no linear layer: here GPTQModel takes the rows of the vocabulary for inputs.
_EMBEDDINGS: Final = frozenset({"embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in"})
#: Families whose linear layers have no biases unless the configuration says so, and the layers that have one all the
#: same; quantizers of AutoGPTQ's days wrote a bias of zeros for every layer.
_BIASED: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "qwen3", "qwen3_moe", "gemma3_text", "phi3"), frozenset()),
    "qwen2": frozenset({"q_proj", "k_proj", "v_proj"}),
}
#: How much of all asymmetric layers is looked at to see how their zeros are written, in words of codes.
_SAMPLE_WORDS: Final = 1 << 18
#: Layers that keep their inputs turned when a model of GPTQModel that is rotated runs (`loader.py`).
_TURNED: Final = ".mlp.down_proj"


def fold_gptq(pool: Pool, quantization: Mapping[str, Json]) -> None:
    """Fold every GPTQ layer, Marlin's tiles of AutoGPTQ included."""
    config = GptqConfig(quantization, pool.path)
    layers = [_Layer(pool, module, config.rule(module)) for module in pool.modules("qweight") if is_gptq(pool, module)]
    shown = _shown_by_data(layers)
    for layer in layers:
        layer.fold(shown)
        _drop_unused_bias(pool, layer.module)
    if quantization.get("rotation"):
        _turn_back(pool, [f"{layer.module}.weight" for layer in layers if layer.module.endswith(_TURNED)])
    for module in pool.modules("B"):
        if pool.get(f"{module}.s") is not None:
            _fold_marlin(pool, module)


def is_gptq(pool: Pool, module: str) -> bool:
    """Whether the columns of `qweight` are outputs, one for each scale: AWQ packs eight of them into a column."""
    weight, scales = pool.need(module, "qweight"), pool.need(module, "scales")
    return len(weight.shape) == 2 and len(scales.shape) == 2 and weight.shape[1] == scales.shape[1] > 0


class _Layer:
    """One module: its arrays, and what they say."""

    def __init__(self, pool: Pool, module: str, rule: Rule) -> None:
        self.pool, self.module, self.rule = pool, module, rule
        self.weight, self.zeros, self.scales = (pool.need(module, part) for part in ("qweight", "qzeros", "scales"))
        self.g_idx = pool.get(f"{module}.g_idx")
        if module.rsplit(".", 1)[-1] in _EMBEDDINGS:
            raise UnsupportedError(
                f"{pool.path}: the embedding {module!r} is quantized as GPTQ; only linear layers are read"
            )
        self._check_dtypes()
        self.groups, self.outputs = self.scales.shape
        self.bits = self._bits()
        self.inputs = self.g_idx.shape[0] if self.g_idx is not None else self.weight.shape[0] * 32 // self.bits
        self.group, self.order = self._order()
        self.words = read_words(self.zeros, pool.path)
        self.found = recognize(self.words, self.bits, self.outputs, planar=rule.planar)

    def fold(self, shown: Zeros | None) -> None:
        """Put the layer into the pool; shown: how asymmetric zeros are written by what all layers show."""
        said = self.rule.zeros
        if said is Zeros.V1_OLD and self.bits != 3:
            said = Zeros.V1
        zeros = self.found.zeros or said or shown or Zeros.V1
        if said is None and not self.found.symmetric:
            self._tell_open(shown)
        elif self.found.symmetric and said not in (None, zeros):
            self._remark(f"the zeros are written as {zeros.value}, not as {said.value} as the configuration says")
        planar = self.bits in PLANAR_BITS or (self.bits == 3 and self.found.planar)
        scale, index = self.scales.encoding.label, "I32" if self.g_idx is None else self.g_idx.encoding.label
        encoding = Gptq(self.bits, self.group, self.found.symmetric, zeros, self.order, scale, planar, index)
        damaged = damaged_words(self.words, self.bits) if self._by_autogptq and zeros is Zeros.V1 else 0
        if damaged:
            self._remark(
                f"{damaged} words of zeros are damaged as AutoGPTQ up to 0.7.1 damages those that hold a zero of 0: "
                "the zeros after it in each word are lost"
            )
        put(self.pool, TensorSpec(f"{self.module}.weight", (self.outputs, self.inputs), encoding))

    def shown_zeros(self, words: int) -> Zeros | None:
        """How the zeros are written, by the words of a symmetric layer, or else by so many words of codes.

        Weights balance, so codes lie around their zeros: the mean of code - stored zero is near 0 in v2 and near 1 in
        v1. None where that leaves it open.
        """
        if self.found.symmetric:
            return self.found.zeros if self.found.zeros is not Zeros.V1_OLD else None
        levels = self._first_levels(words)
        if levels is None:
            return None
        means = levels.mean(0)  # of each output; a few may be damaged
        if 1.25 * means.std() / np.sqrt(means.size) >= 0.15:
            return None
        middle = float(np.median(means))
        return Zeros.V2 if abs(middle) < 0.3 else Zeros.V1 if abs(middle - 1) < 0.3 else None

    def _tell_open(self, shown: Zeros | None) -> None:
        if shown is not None:
            self._remark(f"{OPEN_ZEROS}: {shown.value} by what all layers show; --gptq-format says it for certain")
            return
        planes = ", gptq_p for codes in planes" if self.bits == 3 else ""
        self._remark(
            f"{OPEN_ZEROS}, and the numbers do not show it: read as less one (v1); if the model answers nonsense, take "
            f"--gptq-format gptq_v2{planes}"
        )

    def _first_levels(self, words: int) -> NDArray[np.float64] | None:
        """code - stored zero of the first inputs of every output; None where an error of one would not show."""
        if self.bits > 4 or self.bits in PLANAR_BITS or self.found.planar:
            return None
        count = min(self.inputs, 32 * max(1, words // (self.bits * self.outputs)))
        if self.order is Order.ACT and self.g_idx is not None:
            group = _numbers(self.g_idx)[:count]
        else:
            group = np.arange(count) // (self.inputs if self.group < 0 else self.group)
        codes, zeros = first_codes(self.weight, self.words, self.bits, self.outputs, count)
        return np.asarray(codes - zeros[group], np.float64)

    @property
    def _by_autogptq(self) -> bool:
        """Whether AutoGPTQ may have written asymmetric zeros such as these: it knows no other widths and sizes."""
        return not self.found.symmetric and self.bits in (2, 3, 4, 8) and self.outputs % 32 == 0

    def _remark(self, text: str) -> None:
        self.pool.remark(f"{self.module}.weight", text)

    def _broken(self, text: str, hint: str = "") -> FormatError:
        return FormatError(self.pool.path, f"module {self.module!r}: {text}", hint=hint)

    def _check_dtypes(self) -> None:
        for array in (self.weight, self.zeros, self.g_idx):
            wide = array is self.g_idx  # GPTQModel and AutoGPTQ look groups up by whatever integers they find
            if array is not None and array.encoding.label not in (("I32", "I64") if wide else ("I32",)):
                raise UnsupportedError(
                    f"{self.pool.path}: {array.name!r} is {array.encoding.label}; GPTQ is read in I32 words"
                )
        if self.scales.encoding.label not in ("F16", "BF16", "F32"):
            raise self._broken(f"'scales' is {self.scales.encoding.label}, not F16, BF16 or F32")
        if len(self.zeros.shape) != 2 or self.zeros.shape[0] != self.scales.shape[0]:
            raise self._broken(f"'qzeros' {list(self.zeros.shape)} does not match 'scales' {list(self.scales.shape)}")
        if self.g_idx is not None and (len(self.g_idx.shape) != 1 or not 0 < self.g_idx.shape[0] <= _MAX_INPUTS):
            raise self._broken(f"'g_idx' has shape {list(self.g_idx.shape)}")

    def _bits(self) -> int:
        """The width that the shapes allow; of several, the one the configuration says."""
        rows, words = self.weight.shape[0], self.zeros.shape[1]
        possible = [bits for bits in range(2, 9) if words == -(-self.outputs * bits // 32)]
        if self.g_idx is None:
            possible = [bits for bits in possible if rows * 32 % bits == 0]
        else:
            inputs = self.g_idx.shape[0]
            possible = [bits for bits in possible if rows == -(-inputs * bits // 32)]
        if not possible:
            raise self._broken(
                f"'qweight' {list(self.weight.shape)}, 'qzeros' {list(self.zeros.shape)} and 'scales' "
                f"{list(self.scales.shape)} agree on no width of 2 to 8 bits"
            )
        bits = self.rule.bits if self.rule.bits in possible else possible[0]
        if self.rule.bits is not None and bits != self.rule.bits:
            self._remark(f"stored in {bits} bits, not in {self.rule.bits} as the configuration says")
        return bits

    def _order(self) -> tuple[int, Order]:
        """Inputs of a group, and what the group map is."""
        said = self.rule.group
        fits = said is not None and (1 if said < 0 else -(-self.inputs // said)) == self.groups
        if self.g_idx is None:
            return self._group(fits), Order.MISSING
        g_idx = _numbers(self.g_idx)
        low, high = int(g_idx.min()), int(g_idx.max())
        if low < 0 or high >= self.groups:
            raise self._broken(
                f"'g_idx' names group {low if low < 0 else high}; there are {self.groups}", "the file is damaged"
            )
        if self.groups == 1:
            return self._group(fits), Order.STORED
        if high == 0:
            return self._group(fits), Order.UNSET
        step = int(np.argmax(g_idx > 0))
        if step and (g_idx == np.arange(self.inputs) // step).all():
            return step, Order.STORED
        largest = int(np.bincount(g_idx).max())
        for group in (said if fits else None, largest, -(-self.inputs // self.groups)):
            if group is not None and group > 0 and -(-self.inputs // group) == self.groups:
                return group, Order.ACT
        raise self._broken(f"'g_idx' lists {largest} of {self.inputs} inputs to one of {self.groups} groups")

    def _group(self, fits: bool) -> int:
        if fits and self.rule.group is not None:
            return self.rule.group
        if self.groups == 1:
            return -1
        group, rest = divmod(self.inputs, self.groups)
        if rest:
            raise self._broken(f"{self.groups} groups of {self.inputs} inputs: no 'g_idx' says which", "add group_size")
        if self.rule.group is not None:
            self._remark(f"groups of {group} inputs, not of {self.rule.group} as the configuration says")
        return group


def _numbers(g_idx: Tensor) -> NDArray[np.int64]:
    """The group of each input."""
    stored = read(g_idx.sources["data"]).view("<i8" if g_idx.encoding.label == "I64" else "<i4")
    return stored.astype(np.int64)


def put(pool: Pool, spec: TensorSpec) -> None:
    """Fold the arrays that `spec` is stored as; raises FormatError where one is missing or of another shape."""
    if pool.get(spec.name) is not None:
        raise FormatError(pool.path, f"tensor {spec.name!r} is stored twice: as it is, and quantized")
    assert isinstance(spec.encoding, Gptq | Awq | Marlin)
    try:
        parts = spec.parts
    except PlanError as error:
        raise FormatError(pool.path, f"tensor {spec.name!r}: {error}") from None
    for part, name in spec.encoding.stored_names(spec.name).items():
        array = pool.get(name)
        if array is not None and array.shape != parts[part].shape:
            raise FormatError(
                pool.path,
                f"{name!r} has shape {list(array.shape)}; {spec.encoding.label} of shape {list(spec.shape)} "
                f"has {list(parts[part].shape)}",
            )
    pool.assemble(spec)


def _shown_by_data(layers: list[_Layer]) -> Zeros | None:
    """How zeros are written by what layers show, if any does and none contradicts."""
    if all(layer.found.symmetric or layer.rule.zeros is not None for layer in layers):
        return None  # weights need not balance: what they show is no reason to doubt what is said
    words = _SAMPLE_WORDS // len(layers)
    shown = {found for layer in layers if (found := layer.shown_zeros(words)) is not None}
    return shown.pop() if len(shown) == 1 else None


def _turn_back(pool: Pool, names: list[str]) -> None:
    """Layers whose inputs GPTQModel turns when it runs a rotated model: what their weights mean is turned back.

    All else of its rotation is done to the weights on both sides, and needs nothing.
    """
    if not names:
        raise UnsupportedError(
            f"{pool.path}: rotation in the configuration says that inputs of {_TURNED.removeprefix('.')!r} are "
            "rotated when it runs, and no such layer is here",
            hint="dequantize the model with GPTQModel and save it; or convert the original model",
        )
    for name in names:
        turn(pool, name, 0, "rotation = GPTQModel's")


def _fold_marlin(pool: Pool, module: str) -> None:
    weight, scales = pool.need(module, "B"), pool.need(module, "s")
    if len(weight.shape) != 2 or len(scales.shape) != 2 or not prod(scales.shape):
        raise FormatError(pool.path, f"module {module!r}: 'B' and 's' are no matrices")
    put_marlin(pool, module, weight, scales, awq=False)


def put_marlin(pool: Pool, module: str, weight: Tensor, scales: Tensor, *, awq: bool) -> None:
    """Fold Marlin's tiles; the shapes leave nothing open."""
    inputs, outputs = weight.shape[0] * 16, weight.shape[1] // 2
    groups = scales.shape[0]
    if not inputs or inputs % groups:
        raise FormatError(pool.path, f"module {module!r}: {inputs} inputs are no {groups} groups")
    encoding = Marlin(-1 if groups == 1 else inputs // groups, awq)
    put(pool, TensorSpec(f"{module}.weight", (outputs, inputs), encoding))


def _drop_unused_bias(pool: Pool, module: str) -> None:
    """Take out a bias of zeros that the architecture does not know: old quantizers stored one for every layer."""
    bias, config = pool.get(f"{module}.bias"), pool.config
    biased = _BIASED.get(str(config.get("model_type")))
    if bias is None or len(bias.shape) != 1 or biased is None or module.rsplit(".", 1)[-1] in biased:
        return
    if config.get("attention_bias") or config.get("mlp_bias") or bias.nbytes > 4 * _MAX_INPUTS:
        return
    if not read(bias.sources["data"]).any():
        pool.drop(bias.name)
        pool.remark(bias.name, "a bias of zeros that the architecture does not have; left out")
