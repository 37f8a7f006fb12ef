"""Where every byte of the output goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final

from requant.errors import PlanError
from requant.ir import QUANTIZATION_FILES, Checkpoint, TensorSpec
from requant.layout import Format, Layout, LayoutOptions
from requant.passes.names import as_split
from requant.passes.passing import Fact
from requant.plan import Step, Translation

#: What readers of a Hugging Face folder look for: weights, tokenizer, templates, and how they are to be used.
_READ_FILES: Final = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "tiktoken.model",
    "qwen.tiktoken",
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
class Place:
    """Every byte of the output has its place in a file.

    keep_split: as many files as the source has, with the same tensors in each. cut: else, how to cut the output.
    """

    name: ClassVar = "layout"
    needs: ClassVar = frozenset({Fact.DESCRIBED, Fact.STEPPED})
    ensures: ClassVar = frozenset({Fact.PLACED})
    target: Format
    destination: Path
    cut: LayoutOptions = LayoutOptions()
    keep_split: bool = False

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for what the format cannot store."""
        for step in said.steps:
            self._accept(step)
        cut = as_split(said.moves, self.cut) if self.keep_split else self.cut
        return replace(said, layout=self.target.layout(described(self.target, said), self.destination, cut))

    def _accept(self, step: Step) -> None:
        if not self.target.accepts(step.target.encoding):
            raise PlanError(
                f"{step.target.name}: {self.target.name} cannot store {step.target.encoding.label}",
                hint="choose another type with --to, or another format",
            )


def described(target: Format, said: Translation) -> Checkpoint[TensorSpec]:
    """The checkpoint that will be written."""
    tensors = tuple(step.target for step in said.steps)
    return Checkpoint(target.naming, said.architecture, tensors, said.config, said.metadata, said.files)


def obsolete_files(layout: Layout) -> tuple[Path, ...]:
    """Files in the destination's folder that a reader would take for parts of the new model there."""
    names = {file.name for file in layout.files}
    if "config.json" not in names or not layout.root.is_dir():
        return ()  # a single file stands for itself, whatever lies beside it
    found = {path for pattern in _READ_FILES for path in layout.root.glob(pattern)}
    return tuple(sorted(path for path in found if path.relative_to(layout.root).as_posix() not in names))
