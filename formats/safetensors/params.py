"""params.json of Mistral's own folders, said in the words of config.json.

Such a folder has its weights in consolidated*.safetensors under names of its own; `requant.architectures.consolidated`
knows these. Facts: mistral-inference's `TransformerArgs`; vLLM's transformers_utils/configs/mistral.py, which takes a
context of 128,000 where nothing says one; llama.cpp's conversion/mistral.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.errors import UnsupportedError
from requant.ir import Json
from requant.json_values import Item
from requant.printable import printable

PARAMS: Final = "params.json"
#: The tensor that tells such a folder from others.
EMBEDDING: Final = "tok_embeddings.weight"
_CONTEXT: Final = 128_000
#: Keys that only change their names.
_RENAMED: Final[Mapping[str, str]] = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "head_dim": "head_dim",
    "hidden_dim": "intermediate_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "norm_eps": "rms_norm_eps",
    "vocab_size": "vocab_size",
    "rope_theta": "rope_theta",
    "sliding_window": "sliding_window",
    "tied_embeddings": "tie_word_embeddings",
    "activation": "hidden_act",
    "causal": "is_causal",
}
#: Of latent attention.
_LATENT: Final = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
#: Of experts beside it: names of `moe`, what transformers calls them, and what is meant where nothing is said.
_EXPERTS: Final[Mapping[str, tuple[str, int]]] = {
    "num_experts": ("n_routed_experts", 0),
    "num_experts_per_tok": ("num_experts_per_tok", 0),
    "expert_hidden_dim": ("moe_intermediate_size", 0),
    "num_shared_experts": ("n_shared_experts", 0),
    "first_k_dense_replace": ("first_k_dense_replace", 0),
    "num_expert_groups": ("n_group", 1),
    "num_expert_groups_per_tok": ("topk_group", 1),
}
#: What is read apart, and what says nothing of the text model's values.
_KNOWN: Final = frozenset(
    (
        *(
            "moe",
            "yarn",
            "llama_4_scaling",
            "quantization",
            *_LATENT,
            "max_position_embeddings",
            "max_seq_len",
            "model_max_length",
        ),
        *("vision_encoder", "multimodal", "model_type", "dtype", "torch_dtype", "max_batch_size", "ragged_attention"),
    )
)
#: Keys that are harmless as long as they say this.
_ONLY: Final[Mapping[str, Json]] = {"use_biases": False, "attn_bias": False, "lora": None, "_sliding_window": None}


def from_params(params: Item) -> tuple[dict[str, Json], list[str]]:
    """(config.json that says the same, what is to be told of it). Raises `FormatError` and `UnsupportedError`."""
    said = params.object()
    for key in ("dim", "n_layers", "n_heads"):
        params.get(key).integer()
    strange = [key for key in said if key not in _RENAMED and key not in _KNOWN and key not in _ONLY]
    strange += [key for key, only in _ONLY.items() if said.get(key) not in (None, only)]
    if strange:
        raise UnsupportedError(
            f"{params.path}: {printable(strange[0], 60)!r} is not known, and may say what the model computes",
            hint="convert the folder that transformers loads, if there is one (config.json, model*.safetensors)",
        )
    config = {new: said[old] for old, new in _RENAMED.items() if said.get(old) is not None}
    config |= {"sliding_window": said.get("sliding_window"), "tie_word_embeddings": bool(said.get("tied_embeddings"))}
    config |= {"rms_norm_eps": said.get("norm_eps", 1e-5), "rope_theta": said.get("rope_theta", 10000.0)}
    config["num_key_value_heads"] = said.get("n_kv_heads", said["n_heads"])
    context = next((said[key] for key in ("max_position_embeddings", "max_seq_len") if said.get(key)), None)
    told = [] if context else [f"{PARAMS} does not say how long a context may be: {_CONTEXT:,} is taken, as vLLM does"]
    config["max_position_embeddings"] = context or _CONTEXT
    return config | _class(params, config), told


def _class(params: Item, config: Mapping[str, Json]) -> dict[str, Json]:
    """The class that transformers has for such a model, and what it asks for besides."""
    moe, scaling = params.get("moe"), params.get("llama_4_scaling")
    rope = _yarn(params) if params.get("yarn").value is not None else {}
    if rope:
        rope["rope_theta"] = config["rope_theta"]
    if any(params.get(name).value is not None for name in _LATENT):
        return _latent(params, rope, config)
    if moe.value is not None:
        if scaling.value is not None:
            raise UnsupportedError(f"{params.path}: experts with llama_4_scaling and without latent attention")
        experts = {"num_local_experts": moe.get("num_experts").integer()}
        used = {"num_experts_per_tok": moe.get("num_experts_per_tok").integer()}
        found: dict[str, Json] = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", **experts, **used}
    elif scaling.value is not None:
        rope["llama_4_scaling_beta"] = scaling.get("beta").number()
        found = {"architectures": ["Ministral3ForCausalLM"], "model_type": "ministral3"}
    else:
        found = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    return found | ({"rope_parameters": rope} if rope else {})


def _latent(params: Item, rope: dict[str, Json], config: Mapping[str, Json]) -> dict[str, Json]:
    """Mistral Large 3, by the class that vLLM takes it for; transformers' Mistral 4 computes the same."""
    moe = params.get("moe")
    if moe.value is None or moe.get("route_every_n").value not in (None, 1):
        raise UnsupportedError(f"{params.path}: latent attention is known beside experts in every layer only")
    found: dict[str, Json] = {"architectures": ["MistralLarge3ForCausalLM"], "model_type": "mistral_large_3"}
    found |= {name: params.get(name).integer() for name in _LATENT}
    for name, (known, absent) in _EXPERTS.items():
        found[known] = (
            absent if moe.get(name).value is None and name not in ("num_experts",) else moe.get(name).integer()
        )
    scale = moe.get("routed_scale")
    found["routed_scaling_factor"] = 1.0 if scale.value is None else scale.number()
    if params.get("llama_4_scaling").value is not None:
        rope["llama_4_scaling_beta"] = params.get("llama_4_scaling").get("beta").number()
    rope = {"rope_type": "default", "rope_theta": config["rope_theta"], **rope}
    return found | {"rope_parameters": rope, "num_key_value_heads": params.get("n_heads").integer()}


def _yarn(params: Item) -> dict[str, Json]:
    """alpha and beta are the slow and the fast border; `apply_scale` says whether attention grows with the factor."""
    yarn = params.get("yarn")
    whole = 0.0 if yarn.get("apply_scale").flag(True) else 1.0
    return {
        "rope_type": "yarn",
        "factor": yarn.get("factor").number(),
        "original_max_position_embeddings": yarn.get("original_max_position_embeddings").integer(),
        "beta_fast": yarn.get("beta").number(),
        "beta_slow": yarn.get("alpha").number(),
        **({"mscale": 1.0, "mscale_all_dim": whole} if whole else {}),
    }
