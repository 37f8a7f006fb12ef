"""adapter_config.json: every key of it is understood, or planning stops and names it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from requant.adapters.recognized import CONFIG
from requant.errors import FormatError, UnsupportedError
from requant.ir import Checkpoint, Json, Tensor
from requant.json_values import parse_json
from requant.patterns import Patience, Pattern, PatternError, regular_expression
from requant.printable import printable
from requant.sources import read

_MAX_BYTES: Final = 1 << 23
#: Keys that say what has happened, or which modules to train: the tensors show it.
_IDLE: Final = frozenset(
    {
        *("task_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "bias"),
        *("modules_to_save", "megatron_core", "runtime_config", "qalora_group_size", "ensure_weight_tying"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),  # of ways to begin; see init_lora_weights
    }
)
#: Keys that are read here.
_READ: Final = frozenset(
    {
        *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias"),
        *("fan_in_fan_out", "target_parameters", "trainable_token_indices", "init_lora_weights"),
        *("alora_invocation_tokens", "auto_mapping"),
        *("lora_B_layout", "unsloth_fused_expert_lora"),  # unsloth's; see `_grouped`
    }
)
#: Keys that change what the model computes in ways that are not understood; harmless where they are off.
_OFF: Final = frozenset(
    {
        *("use_qalora", "layer_replication", "megatron_config", "arrow_config", "use_bdlora", "kasa_config"),
        *("velora_config", "monteclora_config", "use_mora", "use_dora_scale", "enable_lora"),
    }
)
#: How the columns of lora_B follow each other in stacks of experts, in unsloth's words.
_BY_EXPERT, _BY_RANK = "grouped_by_expert", "rank_major"
#: Ways to begin that leave the model's own weights as they are.
_BEGINNINGS: Final = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What adapter_config.json says of the tensors.

    rank, alpha: of modules that no pattern names. ranks, alphas: patterns and values, in their order; the first that
    matches counts. parameters: the targets that are no modules. tokens: of each embedding that ends in this name, the
    rows that were trained by themselves. invocation: tokens after which alone an aLoRA works. grouped: parameters of
    stacks of experts whose lora_B has its columns expert by expert, `*` for all; PEFT has them rank by rank. undated:
    of unsloth, and it does not say which of the two.
    """

    base: str
    rank: int
    alpha: float
    ranks: tuple[tuple[str, float], ...] = ()
    alphas: tuple[tuple[str, float], ...] = ()
    rslora: bool = False
    dora: bool = False
    bias: bool = False
    turned: bool = False
    parameters: tuple[str, ...] = ()
    tokens: tuple[tuple[str, tuple[int, ...]], ...] = ()
    saved: tuple[str, ...] = ()
    tying: bool = False
    invocation: tuple[int, ...] = ()
    grouped: tuple[str, ...] = ()
    undated: bool = False
    version: str = ""
    patience: Patience = field(default_factory=Patience, compare=False, repr=False)

    def rank_of(self, module: str) -> int:
        """The rank of a module's factors."""
        return int(self._of(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        """What the product of a module's factors is multiplied by."""
        rank = self.rank_of(module)
        return self._of(self.alphas, module, self.alpha) / (math.sqrt(rank) if self.rslora else rank)

    def _of(self, patterns: Sequence[tuple[str, float]], module: str, otherwise: float) -> float:
        """As PEFT's `get_pattern_key` matches: the pattern is the end of the name, after a dot or alone."""
        for text, value in patterns:
            if _pattern(text, self.patience).matches(module):
                return value
        return otherwise


def _pattern(text: str, patience: Patience) -> Pattern:
    try:
        return regular_expression(rf"(.*\.)?({text})$", patience)
    except PatternError as error:
        raise UnsupportedError(f"{CONFIG}: {error}") from None


def config_of(source: Checkpoint[Tensor]) -> AdapterConfig:
    """What a folder's adapter_config.json says; raises `UnsupportedError` for every key that is not understood."""
    return _Keys(source, _json(source)).config()


def _json(source: Checkpoint[Tensor]) -> Mapping[str, Json]:
    file, path = source.files[CONFIG], source.folder / CONFIG
    if file.nbytes > _MAX_BYTES:
        raise FormatError(path, f"more than {_MAX_BYTES} bytes")
    return parse_json(bytes(read(file)), path).object()


@dataclass(frozen=True, slots=True)
class _Keys:
    """adapter_config.json on its way to be understood."""

    source: Checkpoint[Tensor]
    said: Mapping[str, Json]

    def config(self) -> AdapterConfig:
        """Every key is looked at."""
        kind = self.said.get("peft_type")
        if kind != "LORA":
            raise self._refused("peft_type", kind, "only LORA adapters are understood")
        for key, value in self.said.items():
            if key in _OFF and value not in (None, False, {}, []):
                raise self._refused(key, value, "it changes what the adapter does")
            if key not in _IDLE | _READ | _OFF:
                raise self._refused(key, value, "no such key is known, and it may change what the adapter does")
        self._check_beginning()
        packed = self._packed()
        return AdapterConfig(
            base=str(self.said.get("base_model_name_or_path") or ""),
            rank=int(self._number("r", 8)),
            alpha=self._number("lora_alpha", 8),
            ranks=self._patterns("rank_pattern"),
            alphas=self._patterns("alpha_pattern"),
            rslora=self._flag("use_rslora"),
            dora=self._flag("use_dora"),
            bias=self._flag("lora_bias"),
            turned=self._flag("fan_in_fan_out"),
            parameters=self._texts("target_parameters"),
            tokens=self._tokens(),
            saved=self._texts("modules_to_save"),
            tying=self._flag("ensure_weight_tying"),
            invocation=self._integers("alora_invocation_tokens", self.said.get("alora_invocation_tokens")),
            grouped=tuple(name for name, layout in packed.items() if layout == _BY_EXPERT),
            undated=not packed and self._is_of_unsloth(),
            version=str(self.said.get("peft_version") or ""),
        )

    def _packed(self) -> dict[str, str]:
        """How lora_B of stacks of experts has its columns, by parameter, or `*` for all; empty where nothing is said.

        unsloth writes it since 2026.9.6: for every parameter, and once more for all where they agree; PEFT passes over
        it. Source: `write_fused_expert_lora_layout` and `saved_lora_b_layouts` of unsloth_zoo 2026.10.9.
        """
        for said in (self.said, self.said.get("auto_mapping")):
            if not isinstance(said, dict):
                continue
            detail, whole = said.get("unsloth_fused_expert_lora"), said.get("lora_B_layout")
            parts = detail.get("parameters") if isinstance(detail, dict) else None
            found = {} if whole is None else {"*": whole}
            if isinstance(parts, dict) and parts:
                found = {
                    name: one.get("lora_B_layout") if isinstance(one, dict) else one for name, one in parts.items()
                }
            for name, layout in found.items():
                if layout not in (_BY_EXPERT, _BY_RANK):
                    key = "lora_B_layout" if name == "*" else f"lora_B_layout of {name}"
                    raise self._refused(key, layout, f"only {_BY_RANK} and {_BY_EXPERT} are understood")
            if found:
                return {name: str(layout) for name, layout in found.items()}
        return {}

    def _is_of_unsloth(self) -> bool:
        mapping = self.said.get("auto_mapping")
        return isinstance(mapping, dict) and bool(mapping.get("unsloth_fixed"))

    def _refused(self, key: str, value: Json, why: str) -> UnsupportedError:
        text = printable(json.dumps(value), 60)
        hint = "merge it with PEFT (merge_and_unload), and use the result" if key != "peft_type" else ""
        return UnsupportedError(f"{self.source.folder / CONFIG}: {printable(key, 60)} is {text}: {why}", hint=hint)

    def _check_beginning(self) -> None:
        value = self.said.get("init_lora_weights", True)
        if not any(value is one or (isinstance(value, str) and value == one) for one in _BEGINNINGS):
            raise UnsupportedError(
                f"{self.source.folder / CONFIG}: init_lora_weights is {printable(json.dumps(value), 60)}: the adapter "
                "belongs to other weights than the base model's own, which PEFT computes when it loads it",
                hint="save it as a plain LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
            )

    def _wrong(self, key: str, wanted: str) -> FormatError:
        return FormatError(
            self.source.folder / CONFIG, f"{key} must be {wanted}, not {printable(json.dumps(self.said[key]), 60)}"
        )

    def _number(self, key: str, default: float) -> float:
        value = self.said.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._wrong(key, "a number")
        if key == "r" and (value < 1 or value != int(value)):
            raise self._wrong(key, "1, 2, 3, ...")
        return value

    def _flag(self, key: str) -> bool:
        value = self.said.get(key)
        if not isinstance(value, (bool, type(None))):
            raise self._wrong(key, "true or false")
        return bool(value)

    def _texts(self, key: str) -> tuple[str, ...]:
        value = self.said.get(key) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self._wrong(key, "a list of names")
        return tuple(one for one in value if isinstance(one, str))

    def _integers(self, key: str, value: Any) -> tuple[int, ...]:
        value = [] if value is None else value
        if not isinstance(value, list) or not all(type(one) is int and 0 <= one < 1 << 31 for one in value):
            raise self._wrong(key, "a list of numbers of tokens")
        return tuple(value)

    def _patterns(self, key: str) -> tuple[tuple[str, float], ...]:
        value = self.said.get(key) or {}
        if not isinstance(value, dict):
            raise self._wrong(key, "a mapping of patterns to numbers")
        found = []
        for text, number in value.items():
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
                raise self._wrong(key, "a mapping of patterns to numbers")
            if key == "rank_pattern" and (number < 1 or number != int(number)):
                raise self._wrong(key, "a mapping of patterns to ranks of 1 or more")
            found.append((text, float(number)))
        return tuple(found)

    def _tokens(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """A list is of the model's input embedding, which PEFT calls embed_tokens where it cannot ask the model."""
        key = "trainable_token_indices"
        value = self.said.get(key)
        if value is None or isinstance(value, list):
            numbers = self._integers(key, value)
            return (("", numbers),) if numbers else ()
        if not isinstance(value, dict):
            raise self._wrong(key, "a list, or a mapping of embeddings to lists")
        return tuple((name, self._integers(key, numbers)) for name, numbers in value.items())
