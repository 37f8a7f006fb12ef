"""What the configuration of a GPTQ checkpoint says about each module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from requant.encodings.gptq import Zeros
from requant.errors import UnsupportedError
from requant.ir import Json
from requant.patterns import Patience, Pattern, PatternError, regular_expression

#: Words between colons of `checkpoint_format`, `format`, and auto-round's `packing_format` and, before it had that,
#: `backend`: zeros as they are, or less one. GPTQModel's `QuantLinear` stores them as they are, AutoGPTQ's less one;
#: auto-round's own ("auto_round", whatever kernel follows) as they are (auto-round 0.16, `pack_layer`).
_TRUE_ZEROS: Final = frozenset({"gptq_v2", "gptq_p", "gptqmodel"})
_LESS_ONE: Final = frozenset({"gptq", "auto_gptq", "autogptq", "marlin"})
_AUTO_ROUND: Final = frozenset({"auto_round", "autoround"})
#: Where the layout is named, in the order in which it is believed.
_LAYOUT_KEYS: Final = ("packing_format", "checkpoint_format", "format")
_VERSION: Final = re.compile(r"gptqmodel:(\d{1,6})")


@dataclass(frozen=True, slots=True)
class Rule:
    """What is said about one module; None where nothing is said.

    zeros: by the convention of who wrote it. planar: 3-bit codes are split into planes.
    """

    bits: int | None
    group: int | None
    zeros: Zeros | None
    planar: bool


class GptqConfig:
    """A quantization config; whatever has no meaning in it is ignored.

    path: the model, for messages. A pattern of `dynamic` that cannot be matched is an `UnsupportedError`: nobody knows
    then which modules it speaks of.
    """

    def __init__(self, quantization: Mapping[str, Json], path: Path) -> None:
        self._config, self._path = quantization, path
        method = str(quantization.get("quant_method") or "").lower().replace("-", "_").removeprefix("intel/")
        keys = (*_LAYOUT_KEYS, "backend") if method in _AUTO_ROUND else _LAYOUT_KEYS
        said = next((str(word).lower() for key in keys if (word := quantization.get(key))), "")
        self.form = said if said not in ("", "auto") else "gptq" if quantization else ""

    def rule(self, module: str) -> Rule:
        """What holds for `module`, with `dynamic` (GPTQModel: first match) and `extra_config` (auto-round)."""
        changed = self._changed(module)
        bits = _integer(changed, "bits", _integer(self._config, "bits", _integer(self._config, "w_bit")))
        default = _integer(self._config, "group_size", _integer(self._config, "q_group_size"))
        group = _integer(changed, "group_size", default)
        zeros = self._zeros
        if zeros is Zeros.V1 and bits == 3 and self._is_old:
            zeros = Zeros.V1_OLD
        return Rule(bits, group if group is None or group > 0 else -1, zeros, self.form == "gptq_p")

    @cached_property
    def _zeros(self) -> Zeros | None:
        """How zeros are written, by who says so; None where there is no configuration."""
        words = set(self.form.split(":"))
        if words & _TRUE_ZEROS:
            return Zeros.V2
        if words & _LESS_ONE:
            return Zeros.V1
        return Zeros.V2 if words & _AUTO_ROUND else Zeros.V1 if self.form else None

    @cached_property
    def _is_old(self) -> bool:
        """Whether GPTQModel before 7.0 wrote it, whose 3-bit zeros are peculiar."""
        meta = self._config.get("meta")
        writers = meta.get("quantizer") if isinstance(meta, dict) else None
        names = writers if isinstance(writers, list) else [writers]
        versions = [int(found[1]) for name in names if isinstance(name, str) and (found := _VERSION.match(name))]
        return bool(versions) and min(versions) < 7

    @cached_property
    def _patterns(self) -> list[tuple[Pattern, Mapping[str, Json]]]:
        dynamic, patience = self._config.get("dynamic"), Patience()
        return [
            (regular_expression(text.removeprefix("+:"), patience), changes)
            for text, changes in (dynamic.items() if isinstance(dynamic, dict) else ())
            if not text.startswith("-:") and isinstance(changes, dict)  # what is not quantized shows by itself
        ]

    def _changed(self, module: str) -> Mapping[str, Json]:
        extra = self._config.get("extra_config")
        found = extra.get(module) if isinstance(extra, dict) else None
        if isinstance(found, dict):
            return found
        try:
            return next((changes for pattern, changes in self._patterns if pattern.matches(module)), {})
        except PatternError as error:
            raise UnsupportedError(f"{self._path}: the quantization config's dynamic: {error}") from None


def _integer(config: Mapping[str, Json], key: str, default: int | None = None) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else default
