"""Adapters as PEFT saves them: a folder with adapter_config.json and adapter_model.safetensors, or .bin.

Names as PEFT 0.21 writes them, as older versions did, and as trainers leave them that save a state as it is, with the
adapter's name inside (`lora_A.default.weight`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from requant.adapters.changes import Adapter, Change, Kind, Product, Shift, TrainedTokens, Whole
from requant.adapters.config import AdapterConfig, config_of
from requant.adapters.recognized import CONFIG, is_adapter
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.expressions import Chosen, Stored
from requant.ir import Checkpoint, Naming, Tensor
from requant.printable import printable

_PREFIX: Final = "base_model.model."
#: What PEFT hangs on a module; the adapter's own name may stand within.
_PART: Final = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|"
    r"token_adapter\.trainable_tokens_delta)(?:\.(?!weight$|bias$)\w+)?(?:\.(?P<kind>weight|bias))?",
    re.ASCII,
)
_SAVED: Final = re.compile(r"\.modules_to_save(?:\.\w+(?=\.\w+$))?(?=\.\w+$)", re.ASCII)
_OTHERS: Final = re.compile(
    r"\.(lora_\w+|hada_\w+|lokr_\w+|ia3_\w+|oft_\w+|boft_\w+|vera_\w+|token_adapter)\b", re.ASCII
)


def peft_adapter(source: Checkpoint[Tensor]) -> Adapter:
    """What a folder's adapter changes. Raises `UnsupportedError` for whatever is not understood, and `PlanError` for
    tensors that do not belong together."""
    if not is_adapter(source):
        raise PlanError(
            f"{source.path} is no adapter",
            hint=f"name the folder that has {CONFIG} and adapter_model.safetensors (or .bin), or an adapter's GGUF",
        )
    config = config_of(source)
    modules: dict[str, _Module] = {}
    changes: list[Change] = []
    for tensor in source.tensors:
        name = tensor.name.removeprefix(_PREFIX)
        match = _PART.fullmatch(name)
        if match is not None:
            module = modules.setdefault(match["module"], _Module(match["module"], source, config))
            module.add(match["part"], match["kind"] or "", tensor)
        elif ".original_module." not in name:  # a copy of the model's own, of which the other was trained
            changes.append(_whole(source, tensor, name))
    for module in modules.values():
        changes += module.changes()
    _check_tokens(source, config, changes)
    return Adapter(source.path, Naming.HF, tuple(changes), config.base, "", config, source.files, source.opened)


def _whole(source: Checkpoint[Tensor], tensor: Tensor, name: str) -> Whole:
    """A tensor of the model itself: of modules_to_save, a bias, or one that was resized."""
    if _OTHERS.search(name):
        raise UnsupportedError(
            f"{source.path}: tensor {printable(tensor.name, 200)!r} is of no kind that is understood"
        )
    return Whole(_SAVED.sub("", name).replace(".base_layer.", "."), Stored(tensor), tensor.name)


@dataclass(slots=True)
class _Module:
    """What an adapter has for one module. parts: tensors by what PEFT calls them, `lora_B.bias` among them."""

    name: str
    source: Checkpoint[Tensor]
    config: AdapterConfig
    parts: dict[str, Tensor] = field(default_factory=dict)

    def add(self, part: str, kind: str, tensor: Tensor) -> None:
        """One more tensor."""
        key = f"{part}.bias" if kind == "bias" else part
        if key in self.parts:
            raise self._error(f"tensors {self.parts[key].name!r} and {tensor.name!r} are the same part of one module")
        if kind == "bias" and part != "lora_B":
            raise UnsupportedError(f"{self.source.path}: {tensor.name!r}: only lora_B has a bias that is understood")
        self.parts[key] = tensor

    def changes(self) -> Iterator[Change]:
        """Raises `PlanError` for parts that lack others."""
        tokens = self.parts.pop("token_adapter.trainable_tokens_delta", None)
        if tokens is not None:
            yield self._token_rows(tokens)
        if not self.parts:
            return
        embedding = any("embedding" in part for part in self.parts)
        down, up = (self._factor(f"lora_embedding_{x}" if embedding else f"lora_{x}") for x in "AB")
        target, depth = self.name.replace(".base_layer", ""), self.name.count(".base_layer")
        kinds = self._kinds(target)
        lengths = self.parts.get("lora_magnitude_vector")
        self._check(up, down, lengths, embedding)
        factors = (Stored(down).turned(), Stored(up).turned()) if embedding else (Stored(up), Stored(down))
        of = None if lengths is None else Stored(lengths)
        yield Product(target, *factors, kinds, down.name, depth, of, embedding)
        bias = self.parts.get("lora_B.bias")
        if bias is not None:
            yield Shift(target, Stored(bias), kinds[0].scale, bias.name)

    def _factor(self, part: str) -> Tensor:
        tensor = self.parts.get(part)
        if tensor is None:
            there = next(iter(self.parts.values()))
            raise self._error(f"there is {there.name!r}, but no {part} of {self.name!r}", "the file is incomplete")
        if len(tensor.shape) != 2:
            raise UnsupportedError(
                f"{self.source.path}: {tensor.name!r} has the shape {list(tensor.shape)}: only adapters of matrices "
                "are understood, none of convolutions",
                hint="merge it with PEFT (merge_and_unload), and use the result",
            )
        return tensor

    def _kinds(self, target: str) -> tuple[Kind, ...]:
        """The parameters of the module that adapter_config.json targets by themselves; else it is the weight."""
        found = []
        for text in self.config.parameters:
            module, _, parameter = text.rpartition(".")
            if not module or target == module or target.endswith(f".{module}"):
                found.append(parameter)
        keys = {name: f"{target}.{name}" for name in dict.fromkeys(found)} or {"weight": target}
        return tuple(Kind(name, self.config.rank_of(key), self.config.scale_of(key)) for name, key in keys.items())

    def _check(self, up: Tensor, down: Tensor, lengths: Tensor | None, embedding: bool) -> None:
        rank, other = down.shape[0], up.shape[1]
        if rank != other:
            raise self._error(f"{down.name!r} has the rank {rank}, {up.name!r} {other}")
        ranks = {kind.rank for kind in self._kinds(self.name.replace(".base_layer", ""))}
        if not any(rank % one == 0 if self.config.parameters else rank == one for one in ranks):
            said = " or ".join(map(str, sorted(ranks)))
            raise self._error(f"{down.name!r} has the rank {rank}, {CONFIG} says {said}")
        if (lengths is not None) != self.config.dora:
            told = f"but {CONFIG} does not say use_dora" if lengths is not None else "which use_dora promises"
            name = lengths.name if lengths is not None else f"{self.name}.lora_magnitude_vector"
            raise self._error(f"{'there is' if lengths is not None else 'there is no'} {name!r}, {told}")
        if lengths is not None and lengths.shape not in ((up.shape[0],), (1, up.shape[0]), (up.shape[0], 1)):
            raise self._error(f"{lengths.name!r} has the shape {list(lengths.shape)}, not [{up.shape[0]}]")

    def _token_rows(self, tensor: Tensor) -> TrainedTokens:
        named = [numbers for name, numbers in self.config.tokens if name == "" or self._is_called(name)]
        if not named:
            raise self._error(f"trainable_token_indices in {CONFIG} says nothing of {tensor.name!r}")
        tokens = named[0]
        if len(set(tokens)) < len(tokens):
            raise self._error(f"trainable_token_indices in {CONFIG} names a token twice")
        if len(tensor.shape) != 2 or tensor.shape[0] != len(tokens):
            raise self._error(f"{tensor.name!r} has the shape {list(tensor.shape)} for {len(tokens)} tokens")
        order = tuple(sorted(range(len(tokens)), key=lambda n: tokens[n]))
        values = Stored(tensor) if order == tuple(range(len(tokens))) else Chosen(Stored(tensor), order)
        return TrainedTokens(self.name.replace(".base_layer", ""), values, tuple(sorted(tokens)), tensor.name)

    def _is_called(self, name: str) -> bool:
        return self.name == name or self.name.endswith(f".{name}")

    def _error(self, what: str, hint: str = "") -> PlanError:
        return PlanError(f"{self.source.path}: {what}", hint=hint)


def _check_tokens(source: Checkpoint[Tensor], config: AdapterConfig, changes: list[Change]) -> None:
    """Tokens that were trained by themselves have their rows."""
    if config.tokens and not any(isinstance(change, TrainedTokens) for change in changes):
        raise FormatError(
            source.path, f"{CONFIG} names trainable_token_indices, and there is no token_adapter.trainable_tokens_delta"
        )
