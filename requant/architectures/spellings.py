"""What transformers 4 and 5 call differently in config.json, under both names: who knows one ignores the other.

mlx-lm 0.32.2 and vLLM know the names of transformers 4. A value that a reader misses is no error there but a default of
its own: another base of rotary positions, another number of experts. Facts: the configuration classes of transformers
4.57 and 5.23, mlx-lm's `ModelArgs`; shown by tests/test_config_consumers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.ir import Json

#: Keys of one meaning: what is there under one name is written under the other, too.
_PAIRS: Final = (
    ("num_experts", "num_local_experts"),
    ("n_positions", "n_ctx"),
    ("dtype", "torch_dtype"),
)
#: Model types with layers of two kinds whose local ones have a base of their own.
_LOCAL: Final = ("gemma3", "gemma3_text")
#: Model types younger than transformers 5, whose classes take the older spelling for another choice.
_YOUNGER: Final = ("mellum", "gemma4_text")
#: Rope parameters that transformers 4 has beside `rope_scaling`, not in it.
_BESIDE: Final = ("rope_theta", "partial_rotary_factor")


def both_spellings(config: Mapping[str, Json]) -> dict[str, Json]:
    """`config` with what is missing under either name; nothing that is there is changed."""
    found: dict[str, Json] = dict(config)
    text = found.get("text_config")
    if isinstance(text, dict):
        found["text_config"] = both_spellings(text)
    for one, other in _PAIRS:
        for name, twin in ((one, other), (other, one)):
            if found.get(name) is not None and twin not in found:
                found[twin] = found[name]
    for key, value in _older_rope(found).items():
        if found.get(key) is None:
            found[key] = value
    scaling = found.get("rope_scaling")
    if isinstance(scaling, dict) and "longrope" in (scaling.get("rope_type"), scaling.get("type")):
        found |= _longrope(found, scaling)
    return found


def one_spelling(config: Mapping[str, Json]) -> dict[str, Json]:
    """`config` with every meaning under one name, transformers 4's where there are two; the way back is none.

    >>> one_spelling({"dtype": "bfloat16", "torch_dtype": "bfloat16", "rope_parameters": {"rope_theta": 1e4}})
    {'dtype': 'bfloat16', 'rope_theta': 10000.0, 'rope_scaling': None}
    """
    found = both_spellings(config)
    for one, other in _PAIRS:
        if one in found and other in found:
            del found[other]
    if _older_rope(found):
        del found["rope_parameters"]
    scaling = found.get("rope_scaling")
    if isinstance(scaling, dict) and "rope_type" in scaling and "type" in scaling:
        found["rope_scaling"] = {key: value for key, value in scaling.items() if key != "type"}
    return found


def _older_rope(config: Mapping[str, Json]) -> dict[str, Json]:
    """`rope_parameters` of transformers 5 as transformers 4 says it."""
    written = config.get("rope_parameters")
    if not isinstance(written, dict) or not written or config.get("model_type") in _YOUNGER:
        return {}
    older: dict[str, Json] = {}
    kinds = [value for value in written.values() if isinstance(value, dict)]
    if len(kinds) == len(written):  # one for each kind of layer
        whole, local = written.get("full_attention"), written.get("sliding_attention")
        if not isinstance(whole, dict):
            return {}
        if isinstance(local, dict) and config.get("model_type") in _LOCAL:
            older["rope_local_base_freq"] = local.get("rope_theta")
        written = whole
    older |= {key: written[key] for key in _BESIDE if written.get(key) is not None}
    scaling = {key: value for key, value in written.items() if key not in _BESIDE}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    older["rope_scaling"] = None if kind == "default" else {**scaling, "rope_type": kind, "type": kind}
    return older


def _longrope(config: Mapping[str, Json], scaling: Mapping[str, Json]) -> dict[str, Json]:
    """Where transformers 4 looks for the context of long rope, and the three keys that it lets Phi-3 have."""
    original, longest = scaling.get("original_max_position_embeddings"), config.get("max_position_embeddings")
    original = config.get("original_max_position_embeddings") if original is None else original
    found: dict[str, Json] = {} if original is None else {"original_max_position_embeddings": original}
    if config.get("model_type") == "phi3":
        factors = {key: scaling[key] for key in ("short_factor", "long_factor") if key in scaling}
        found["rope_scaling"] = {**factors, "type": "longrope"}
    elif isinstance(original, int | float) and isinstance(longest, int | float) and original > 0:
        found["rope_scaling"] = {**scaling, "factor": scaling.get("factor") or longest / original}
    return found
