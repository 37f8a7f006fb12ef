"""Every tensor and every key of a quantization config is claimed by something that knows what it does to the values."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from requant.encodings import Dense
from requant.errors import PlanError, UnsupportedError
from requant.ir import CONSOLIDATED, Checkpoint, Json, Naming, Tensor, text_config
from requant.losses import Loss, LossKind
from requant.passes.passing import Fact
from requant.plan import Translation

#: Ends of the names of parameters; buffers may be empty.
_PARAMETERS: Final = (".weight", ".bias")
#: What PEFT hangs on a layer.
_LORA: Final = re.compile(r"\.(?:lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)|hada_w\d_[ab]|lokr_\w+|oft_r)\b")


@dataclass(frozen=True, slots=True)
class Claim:
    """Everything the source has is known, or planning stops and names it.

    target: the naming of the destination; to say an HF checkpoint in GGML's, one must know what model it is.
    copied: whether arrays and configuration stay as they are; then nobody need understand them.
    What the reader found strange and yet readable is told.
    """

    name: ClassVar = "claim"
    needs: ClassVar = frozenset[Fact]()
    ensures: ClassVar = frozenset({Fact.CLAIMED})
    target: Naming
    copied: bool = False

    def __call__(self, said: Translation) -> Translation:
        """Raises `UnsupportedError` for what nothing knows, `PlanError` for a copy that would contradict itself."""
        source = said.source
        if source.obstacle is not None and not self.copied:
            raise source.obstacle
        if source.naming is Naming.HF and self.target is Naming.GGML and not source.config:
            raise _not_a_model(source)
        if self.copied and source.architecture == CONSOLIDATED:
            raise PlanError(
                f"{source.path}: a copy would have Mistral's own names beside a config.json of transformers",
                hint="name a type, and it becomes a folder that transformers loads: --to BF16",
            )
        if not self.copied:
            _refuse_empty(source)
            _refuse_adapter(source)
            said = _with_quantized_head(said)
        return said.losing(*(Loss(LossKind.SUSPECT, source.path.name, notice) for notice in source.notices))


def _with_quantized_head(said: Translation) -> Translation:
    """A quantized head counts, even where config.json calls it tied to the embedding: it is what is computed with.

    The reader tells it.
    """
    source, text = said.source, text_config(said.source.config)
    head = next((tensor for tensor in source.tensors if tensor.name == "lm_head.weight"), None)
    if source.naming is not Naming.HF or head is None or isinstance(head.encoding, Dense):
        return said
    apart: dict[str, Json] = {"tie_word_embeddings": False}
    if source.config.get("tie_word_embeddings") is True:
        config = {**source.config, **apart}
    elif text.get("tie_word_embeddings") is True:
        config = {**source.config, "text_config": {**text, **apart}}
    else:
        return said
    return replace(said, source=replace(source, config=config), config=config)


def _refuse_empty(source: Checkpoint[Tensor]) -> None:
    """Parameters without a number, which a trainer that shards them leaves where nobody gathers them."""
    empty = [tensor.name for tensor in source.tensors if 0 in tensor.shape and tensor.name.endswith(_PARAMETERS)]
    if empty and source.naming is Naming.HF:
        raise UnsupportedError(
            f"{source.path}: {len(empty)} of {len(source.tensors)} tensors are empty, {empty[0]!r} among them, as "
            "DeepSpeed's ZeRO-3 leaves parameters that nobody gathers",
            hint="make the weights from the checkpoint with its zero_to_fp32.py, or save the model again with "
            "stage3_gather_16bit_weights_on_model_save",
        )


def _refuse_adapter(source: Checkpoint[Tensor]) -> None:
    """Layers of a model that was saved with its adapter in it: alone they are not what the model computes."""
    names = {tensor.name for tensor in source.tensors}
    inside = next((name for name in names if ".base_layer." in name), None)
    beside = next((name for name in names if (found := _LORA.search(name)) and _has_weight(found, names)), None)
    if inside or beside:
        raise UnsupportedError(
            f"{source.path}: {inside or beside!r}: an adapter (LoRA) is in the model, and not merged into its weights",
            hint="merge it (PEFT's merge_and_unload), save the model, and convert the result",
        )


def _has_weight(found: re.Match[str], names: set[str]) -> bool:
    return f"{found.string[: found.start()]}.weight" in names


def _not_a_model(source: Checkpoint[Tensor]) -> UnsupportedError:
    """The error for tensors of which nobody says what model they make."""
    if "adapter_config.json" in source.files:
        return UnsupportedError(
            f"{source.path} is an adapter (LoRA), to be put on a model, and none itself",
            hint="put it on its model: requant merge BASE+ADAPTER -o OUT; llama.cpp's --lora takes its GGUF",
        )
    inside = not source.path.is_dir()
    return UnsupportedError(
        f"{source.path} has no config.json, which says what model the tensors make",
        hint="convert the folder that has it, not a file inside" if inside else "fetch config.json into the folder",
    )
