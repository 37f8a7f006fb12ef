"""Any readable checkpoint to any writable format: everything decided, nothing done.

What happens on the way is a list of passes, one for each direction: `requant.passes.directions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from requant.importance import Importance
from requant.ir import QUANTIZATION_FILES, Checkpoint, Naming, Tensor, Typed
from requant.layout import Format, Layout, LayoutOptions
from requant.passes.directions import ggml_to_ggml, ggml_to_hf, hf_to_ggml, hf_to_hf
from requant.passes.passing import made
from requant.plan import Plan, unchanged
from requant.recipes import Overrides

#: (naming of the source, of the target) -> the list of passes between them.
_LISTS: Final = {
    (Naming.HF, Naming.GGML): hf_to_ggml,
    (Naming.GGML, Naming.GGML): ggml_to_ggml,
    (Naming.GGML, Naming.HF): ggml_to_hf,
    (Naming.HF, Naming.HF): hf_to_hf,
}

#: What readers of a Hugging Face folder look for: weights, tokenizer, templates, and how they are to be used.
_READ_FILES: Final = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
    "modules.json",
    *QUANTIZATION_FILES,
)


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks for besides source and destination.

    recipe: a name as users type it; None keeps what can be kept. importance: from an imatrix file.
    key_values: metadata to set in a GGUF (`--override-kv`). vocabulary: False leaves the tokenizer out of a GGUF.
    """

    recipe: str | None = None
    overrides: Overrides = Overrides()
    importance: Importance | None = None
    key_values: tuple[tuple[str, Typed], ...] = ()
    cut: LayoutOptions = LayoutOptions()
    vocabulary: bool = True


def plan_conversion(source: Checkpoint[Tensor], target: Format, destination: Path, request: Request) -> Plan:
    """Decide how `source` becomes `destination`; raises `PlanError` or `UnsupportedError` for whatever cannot be."""
    passes = _LISTS[source.naming, target.naming](request, target, destination)
    said, trail = made(passes, unchanged(source))
    assert said.layout is not None
    return Plan(said.steps, said.layout, said.losses, obsolete_files(said.layout), trail)


def obsolete_files(layout: Layout) -> tuple[Path, ...]:
    """Files in the destination's folder that a reader would take for parts of the new model there."""
    names = {file.name for file in layout.files}
    if "config.json" not in names or not layout.root.is_dir():
        return ()  # a single file stands for itself, whatever lies beside it
    found = {path for pattern in _READ_FILES for path in layout.root.glob(pattern)}
    return tuple(sorted(path for path in found if path.relative_to(layout.root).as_posix() not in names))
