"""Positions of time, height and width (M-RoPE): which numbers of a head turn by which of the three.

Of text the three are the same, so that the sections matter to pictures alone; llama.cpp asks for them all the same.
Facts: transformers' modeling_qwen2_vl.py (one after the other) and modeling_qwen3_vl.py (in turn), llama.cpp's
conversion/base.py and `llama_model_rope_type` of its src/llama-model.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from requant.architectures.numbers import shown
from requant.architectures.rope import Rope, parameters
from requant.architectures.rules import Config, Irregular, Sizes, ToGgml, ToHf
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor, Typed

#: The key of a GGUF, without the architecture: four numbers, the last one 0.
SECTIONS: Final = "rope.dimension_sections"
_HF: Final = "mrope_section"
_INTERLEAVED: Final = "mrope_interleaved"


@dataclass(frozen=True, slots=True)
class Sections:
    """The rope of one family in sections.

    usual: transformers' sections where config.json has none. interleaved: as llama.cpp computes it, the three take
    turns. kept: a GGUF becomes a model that knows sections; else the text model alone, to which they mean nothing.
    """

    rope: Rope
    usual: tuple[int, int, int]
    interleaved: bool
    kept: bool = False

    def pair(self) -> Irregular:
        """For the table of a family."""
        return Irregular(self.to_ggml, self.to_hf, replace(self, kept=True).to_hf)

    def to_ggml(self, checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
        """The rope's keys and the sections. `mrope`, a type of transformers 4, is the usual rope in sections."""
        scaling = parameters(config, self.rope.theta)
        if scaling["rope_type"] == "mrope":
            scaling |= {"rope_type": "default"}
        said = self.rope.to_ggml(checkpoint, {**config, "rope_parameters": scaling}, sizes)
        if scaling.get(_INTERLEAVED, self.interleaved) is not self.interleaved:
            raise PlanError(
                f"config.json: {_INTERLEAVED} is {shown(scaling[_INTERLEAVED])}; llama.cpp computes otherwise"
            )
        listed: list[Json] = [*self._checked(scaling.get(_HF), sizes["rotary"] // 2), 0]
        return replace(said, values={**said.values, SECTIONS: Typed("[i32]", listed)})

    def _checked(self, found: Json, half: int) -> list[int]:
        """Three sections of half a head."""
        listed = list(self.usual) if found is None else found
        counts = (
            [n for n in listed if isinstance(n, int) and not isinstance(n, bool)] if isinstance(listed, list) else []
        )
        if (
            not isinstance(listed, list)
            or len(listed) != 3
            or len(counts) != 3
            or min(counts) < 0
            or sum(counts) != half
        ):
            raise PlanError(f"config.json: {_HF} is {shown(listed)}, three numbers that add up to {half} are needed")
        return counts

    def to_hf(self, values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
        """The rope, and its sections if they are kept; else they are carried along."""
        said = self.rope.to_hf(values, tensors, sizes)
        if not self.kept:
            return said
        listed = values.get(SECTIONS)
        sections = self._checked(listed[:3] if isinstance(listed, list) else listed, sizes["rotary"] // 2)
        scaling = said.config.get("rope_scaling")
        rope: dict[str, Json] = {
            "rope_type": "default",
            **(scaling if isinstance(scaling, dict) else {}),
            "rope_theta": said.config["rope_theta"],
            _HF: [*sections],
            **({_INTERLEAVED: True} if self.interleaved else {}),
        }
        if "partial_rotary_factor" in said.config:
            rope["partial_rotary_factor"] = said.config["partial_rotary_factor"]
        return replace(said, config={**said.config, "rope_parameters": rope}, keys=said.keys | {SECTIONS})
