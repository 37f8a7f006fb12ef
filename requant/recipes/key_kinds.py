"""The type in which llama.cpp reads each key of a GGUF; with another it refuses the file.

Facts: `LLM_KV_NAMES` of llama.cpp's src/llama-arch.cpp and the variables that `get_key` fills, b11549.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from requant.errors import PlanError
from requant.ir import Typed

_F32: Final = frozenset(
    f"{group}{name}"
    for group, names in {
        "": "expert_weights_scale expert_group_scale logit_scale residual_scale embedding_scale attn_logit_softcapping "
        "router_logit_softcapping final_logit_softcapping adapters.router_gain activation.situ_beta "
        "activation.situ_linear_beta swiglu_clamp_exp swiglu_clamp_shexp hyper_connection.epsilon "
        "hyper_connection.magnitude kda.gate_lower_bound",
        "attention.": "max_alibi_bias clamp_kqv layer_norm_epsilon layer_norm_rms_epsilon group_norm_epsilon scale "
        "output_scale value_scale temperature_scale compress_rope_freq_base",
        "rope.": "freq_base freq_base_swa scale_linear scaling.factor scaling.alpha scaling.attn_factor "
        "scaling.yarn_log_multiplier scaling.yarn_ext_factor scaling.yarn_attn_factor scaling.yarn_beta_fast "
        "scaling.yarn_beta_slow",
    }.items()
    for name in names.split()
)
_BOOL: Final = frozenset(
    [
        "use_parallel_residual",
        "expert_weights_norm",
        "swin_norm",
        "skip_loop_final_norm",
        "hrm.prefix_lm",
        "attention.causal",
        "attention.indexer.kpool_select_tail",
        "rope.scaling.finetuned",
        "ssm.dt_b_c_rms",
        "kda.safe_gate",
        "norm_before_residual",
        "norm_before_fc",
    ]
)
_STR: Final = frozenset(["tensor_data_layout", "hidden_activation", "classifier.activation", "rope.scaling.type"])
#: Counts that every architecture may have; a list has one for each layer.
_U32: Final = frozenset(
    f"{group}{name}"
    for group, names in {
        "": "vocab_size context_length embedding_length embedding_length_out block_count leading_dense_block_count "
        "feed_forward_length expert_feed_forward_length expert_shared_feed_forward_length expert_count "
        "expert_used_count expert_shared_count expert_group_count expert_group_used_count expert_gating_func "
        "nextn_predict_layers pooling_type decoder_start_token_id decoder_block_count full_attention_interval "
        "interleave_moe_layer_step moe_every_n_layers",
        "attention.": "head_count head_count_kv key_length value_length key_length_mla value_length_mla "
        "key_length_swa value_length_swa q_lora_rank kv_lora_rank relative_buckets_count sliding_window "
        "temperature_length group_norm_groups shared_kv_layers",
        "rope.": "dimension_count dimension_count_swa scaling.original_context_length",
        "ssm.": "conv_kernel inner_size state_size time_step_rank group_count",
        "wkv.": "head_size",
        "shortconv.": "l_cache",
    }.items()
    for name in names.split()
)
_OF_TOKENS: Final[Mapping[str, str]] = {
    **{f"add_{kind}_token": "bool" for kind in ("bos", "eos", "sep")},
    **dict.fromkeys(("add_space_prefix", "remove_extra_whitespaces"), "bool"),
    **dict.fromkeys(("normalizer.lowercase", "normalizer.strip_accents"), "bool"),
    **dict.fromkeys(("model", "pre"), "str"),
    "token_type_count": "u32",
}
_GENERAL: Final[Mapping[str, str]] = dict.fromkeys(
    [
        "architecture",
        "type",
        "name",
        "author",
        "version",
        "organization",
        "description",
        "finetune",
        "basename",
        "quantized_by",
        "size_label",
        "license",
        "license.name",
        "license.link",
        "url",
        "repo_url",
        "doi",
        "uuid",
    ],
    "str",
)
_SAMPLING: Final[Mapping[str, str]] = {
    **dict.fromkeys(("sequence",), "str"),
    **dict.fromkeys(("top_k", "penalty_last_n", "mirostat"), "i32"),
    **dict.fromkeys(("top_p", "min_p", "xtc_probability", "xtc_threshold", "temp"), "f32"),
    **dict.fromkeys(("penalty_repeat", "mirostat_tau", "mirostat_eta"), "f32"),
}


#: Lists with an item for each token, merge or label, which tensors and token ids go by.
_LISTS: Final = frozenset(
    [*(f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type", "merges")), "general.languages"]
)


def kind_of(key: str, architecture: str) -> str | None:
    """The type of a key, as `Typed.kind` has it; None for one that llama.cpp does not read.

    >>> kind_of("llama.rope.freq_base", "llama"), kind_of("tokenizer.ggml.eot_token_id", "llama")
    ('f32', 'u32')
    """
    group, _, name = key.partition(".")
    if key.startswith("general.sampling."):
        return _SAMPLING.get(key.removeprefix("general.sampling."))
    if group == "general":
        return "u32" if name in ("alignment", "file_type", "quantization_version") else _GENERAL.get(name)
    if key.startswith("tokenizer.chat_template"):
        return "str"
    if key.startswith("tokenizer.ggml."):
        name = key.removeprefix("tokenizer.ggml.")
        return "u32" if name.endswith("_token_id") else _OF_TOKENS.get(name)
    if not key.startswith(f"{architecture}."):
        return None
    name = key.removeprefix(f"{architecture}.")
    for kind, names in (("f32", _F32), ("bool", _BOOL), ("str", _STR), ("u32", _U32)):
        if name in names:
            return kind
    return None


def fitted(metadata: Mapping[str, Typed], given: Iterable[tuple[str, Typed]]) -> tuple[tuple[str, Typed], ...]:
    """What a user gives for keys, each in its type; see `fitting`."""
    named = metadata.get("general.architecture")
    architecture = named.value if named is not None and isinstance(named.value, str) else ""
    return tuple((key, fitting(key, value, metadata.get(key), architecture)) for key, value in given)


def fitting(key: str, given: Typed, current: Typed | None, architecture: str) -> Typed:
    """What a user gives for a key, in the type that llama.cpp reads or, of other keys, that the file has.

    A number changes its type as long as its value stays. Raises `PlanError` for what cannot be said in it.
    """
    kind = kind_of(key, architecture) or (given.kind if current is None else current.kind)
    is_list = key in _LISTS or (current is not None and current.kind.startswith("["))
    if is_list and not given.kind.startswith("[") and kind_of(key, architecture) is None:
        raise PlanError(f"{key} is a list; a single value cannot stand for it")
    value = given.value
    if given.kind == kind or given.kind.startswith("["):
        return given
    if not isinstance(value, str | bool):
        assert isinstance(value, int | float)
        if kind in ("f32", "f64"):
            return Typed(kind, float(value))
        if kind[0] in "ui" and float(value).is_integer() and holds(kind, int(value)):
            return Typed(kind, int(value))
        if kind == "bool" and value in (0, 1):
            return Typed(kind, bool(value))
    raise PlanError(
        f"{key} is read as {kind}; {value!r} ({given.kind}) is none", hint=f"write {key}={KIND_WORDS[kind[0]]}:…"
    )


#: What `--override-kv` calls types that begin with this letter.
KIND_WORDS: Final = {"u": "int", "i": "int", "f": "float", "b": "bool", "s": "str"}


def holds(kind: str, value: int) -> bool:
    """Whether an integer type of a GGUF has this number."""
    bits = int(kind[1:])
    low, high = (-(1 << bits - 1), 1 << bits - 1) if kind[0] == "i" else (0, 1 << bits)
    return low <= value < high
