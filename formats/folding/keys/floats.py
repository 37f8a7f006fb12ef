"""Keys of what stores small floats or int8 under scales: compressed-tensors, FP8, ModelOpt, Quark, MXFP4, torchao.

Sources: compressed-tensors 0.20 (`QuantizationConfig`, `QuantizationScheme`, `QuantizationArgs`; versions from 0.3 on
for what old files have), llm-compressor 0.14, NVIDIA ModelOpt 0.47 (`quant_utils.py`, `convert_hf_config.py`), AMD
Quark 0.13 (`QConfig.to_dict`, `JsonExporterConfig`), torchao 0.18, transformers 5.23, vLLM 0.33, SGLang 0.5.
"""

from __future__ import annotations

from typing import Final

from requant.formats.folding.keys.rule import Key, Scheme, heeded, idle, off, only

_METHOD: Final = heeded("quant_method")
_HOW: Final = "how the scales were found, not what they are"
_WHERE: Final = "which layers are quantized shows by their arrays"
_RUN: Final = "how a kernel runs it"
_ACTIVATIONS: Final = "how inputs and outputs are rounded when it runs"
_CACHE: Final = "how the cache is rounded when it runs"
_ROTATED: Final = "means that weights are rotated, and inputs when it runs"
_LOW_RANK: Final = "adds a low-rank product to the weights"

_ARGS: Final = {
    **heeded("num_bits", "group_size", "symmetric", "block_structure"),
    "type": only("int float", "is no type of elements that is known here"),
    "strategy": only(
        "tensor channel group block token tensor_group attn_head", "is no way to share scales that is known here"
    ),
    "actorder": Key(),  # the group map is stored
    **heeded("scale_dtype", "zp_dtype"),  # the arrays' own dtypes
    **idle(_HOW, "observer", "observer_kwargs", "dynamic"),
}
_COMPRESSED_FORMATS: Final = only(
    "dense sparse-bitmask sparse-24-bitmask int-quantized float-quantized naive-quantized pack-quantized marlin-24 "
    "mixed-precision nvfp4-pack-quantized mxfp4-pack-quantized mxfp6-pack-quantized mxfp8-quantized fakequant",
    "is no format of compressed-tensors that is known here",
)
_GROUP: Final = {
    "weights": Key(keys=_ARGS),
    "format": _COMPRESSED_FORMATS,
    **idle(_WHERE, "targets"),
    **idle(_ACTIVATIONS, "input_activations", "output_activations"),
    # ModelOpt's, whose configuration has the same form: the arrays beside the weight say both
    **heeded("has_zero_point", "pre_quant_scale", "quant_algo"),
    **off(_LOW_RANK, "lora_rank"),
}
_COMPRESSED: Final = {
    **_METHOD,
    "config_groups": Key(each=_GROUP),
    "format": _COMPRESSED_FORMATS,
    **idle("the arrays show whether they are compressed", "quantization_status", "global_compression_ratio"),
    **idle(_WHERE, "ignore", "targets"),
    **idle(_CACHE, "kv_cache_scheme"),
    **idle(_RUN, "run_compressed", "dequantize", "use_optimized_inference", "version"),
    **idle("of AutoRound, which wrote it", "provider", "attention_input_activations", "autoround_version"),
    **heeded("sparsity_config", "moe_sparsity_config"),  # sparse arrays have names of their own
    "quantization_config": Key(),  # a nested one of compressed-tensors before 0.9, which is claimed by itself
    **off(_ROTATED, "transform_config", "rotation_config", "spinquant_config"),
}

COMPRESSED: Final = Scheme(
    "compressed-tensors",
    "compressed-tensors 0.3 to 0.20, llm-compressor 0.14",
    ("compressed-tensors", "compressed_tensors", "sparseml"),
    _COMPRESSED,
    library="compressed-tensors",
)

_FP8: Final = {
    **_METHOD,
    **heeded("weight_block_size"),
    "fmt": only("e4m3 e5m2 float8_e4m3 float8_e5m2 e4m3fn", "is no format of elements that is known here"),
    "scale_fmt": only("float ue8m0", "is no format of scales that is known here"),
    "expert_dtype": only("fp8 fp4 bf16", "is no format of experts that is known here"),
    "store_dtype": only("float8_e4m3fn fp8 bfloat16 float16", "is no format of elements that is known here"),
    **idle(_ACTIVATIONS, "activation_scheme", "activation_scale_ub", "input_scale_ub"),
    **idle(
        _WHERE,
        *("modules_to_not_convert", "ignored_layers", "modules_to_convert", "ignore", "exclude", "exclude_modules"),
        *("packed_modules_mapping", "linear_class", "quantized_layers"),
    ),
    **idle(_CACHE, "kv_cache_scheme", "kv_cache_quant_algo", "kv_cache_dtype"),
    **idle(_RUN, "dequantize", "version", "is_checkpoint_fp8_serialized", "use_deep_gemm", "use_mxfp8"),
    **idle("the arrays have dtypes of their own", "bits", "group_size", "weight_bits", "dtype"),
}
FP8: Final = Scheme(
    "FP8",
    "transformers 5.23 (FineGrainedFP8Config, FbgemmFp8Config), vLLM 0.33, SGLang 0.5, DeepSeek V3 and V4",
    ("fp8", "fbgemm_fp8", "mxfp8", "finegrained_fp8", "w8a8_fp8", "w8a8_int8", "blockwise_int8", "float8"),
    _FP8,
    library="transformers",
)

MXFP4: Final = Scheme(
    "MXFP4",
    "transformers 5.23 (Mxfp4Config), gpt-oss",
    ("mxfp4", "nvfp4"),
    {**_METHOD, **idle(_WHERE, "modules_to_not_convert", "ignored_layers"), **idle(_RUN, "dequantize", "version")},
    library="transformers",
)

_ALGO: Final = only(
    "fp8 fp8_per_channel_per_token fp8_pb_wo fp8_pb_real fp8_block nvfp4 nvfp4_awq w4a16_nvfp4 w4a16_awq w4a8_awq "
    "w8a16 w8a8_sq_per_channel w4a8_nvfp4_fp8 w4a8_mxfp4_fp8 mxfp4 mxfp8 mixed_precision int4_awq int8_sq none "
    "no_quant nvfp4_svd",  # whose low-rank product a fold refuses by its arrays
    "is no algorithm of ModelOpt that is known here",
)
_LAYER: Final = {"quant_algo": _ALGO, **heeded("group_size", "has_zero_point", "pre_quant_scale", "awq_block_size")}
_QUANTIZATION: Final = {
    **_LAYER,
    **idle(_CACHE, "kv_cache_quant_algo", "kv_cache_scheme"),
    **idle(_WHERE, "exclude_modules", "ignore"),
    "quantized_layers": Key(each=_LAYER),
    **off(_LOW_RANK, "lora_rank"),
    **off(_ROTATED, "rotate", "rotation"),
    **idle(_RUN, "clamp_val", "smoothquant_val"),
}
MODELOPT: Final = Scheme(
    "ModelOpt",
    "NVIDIA ModelOpt 0.47, vLLM 0.33, TensorRT-LLM",
    ("modelopt", "modelopt_fp4", "modelopt_fp8", "modelopt_mixed", "modelopt_mxfp8", "modelopt_nvfp4", "petit_nvfp4"),
    {
        **_COMPRESSED,
        **_QUANTIZATION,
        "quantization": Key(keys=_QUANTIZATION),
        **idle("who wrote it", "producer"),
        **idle(_WHERE, "packed_modules_mapping"),
        **heeded("bits", "weight_block_size"),
        **idle(_ACTIVATIONS, "activation_scheme"),
    },
    library="ModelOpt",
)

_SPEC: Final = {
    "dtype": only(
        "fp8_e4m3 fp8_e5m2 fp4 mxfp4 mx int8 int4 uint4 uint8 int3 int2 fp6_e3m2 fp6_e2m3 bfloat16 float16 float32 "
        "bfp16 mx6 mx9 amd_fp4",
        "is no format of elements that is known here",
    ),
    **heeded("qscheme", "ch_axis", "group_size", "symmetric", "scale_format", "zero_point_type", "block_size"),
    "mx_element_dtype": only("fp4 fp8_e4m3 fp8_e5m2", "is no format of elements that is known here"),
    **idle(
        _HOW,
        *("observer_cls", "round_method", "scale_type", "is_dynamic", "scale_calculation_mode", "enable_buffer_reuse"),
        *("max_input_numel", "is_scale_quant", "qat_spec", "observer_method"),
    ),
}
_LAYER_SPEC: Final = {
    "weight": Key(keys=_SPEC),  # a list where scales are quantized themselves: the arrays show it
    **idle(_ACTIVATIONS, "input_tensors", "output_tensors", "bias"),
    **idle(_RUN, "target_device"),
}
QUARK: Final = Scheme(
    "Quark",
    "AMD Quark 0.13, vLLM 0.33",
    ("quark", "quark_int4fp8_moe"),
    {
        **_METHOD,
        "global_quant_config": Key(keys=_LAYER_SPEC),
        **dict.fromkeys(("layer_quant_config", "layer_type_quant_config"), Key(each=_LAYER_SPEC)),
        "algo_config": Key(
            each={
                "name": only(
                    "smooth awq gptq gptaq autosmoothquant auto_smooth_quant autoround qronos smoothquant",
                    "means that weights are rotated or corrected, and inputs when it runs",
                ),
                **idle(
                    _HOW,
                    *("alpha", "scale_clamp_min", "scaling_layers", "model_decoder_layers", "compute_scale_loss"),
                    *("block_size", "damp_percent", "desc_act", "static_groups", "inside_layer_modules", "iters", "lr"),
                    *(
                        "enable_minmax_tuning",
                        "minmax_lr",
                        "batch_size",
                        "beta",
                        "embedding_layers",
                        "num_attention_heads",
                    ),
                    *("num_key_value_heads",),
                ),
            }
        ),
        **idle(_ACTIVATIONS, "softmax_quant_spec"),
        **idle(
            _CACHE,
            *("kv_cache_quant_config", "kv_cache_group", "min_kv_scale", "kv_cache_post_rope", "kv_cache_quant"),
        ),
        **idle(_WHERE, "exclude", "ignore"),
        **idle(_HOW, "version", "quant_mode", "quant_flow", "shared_scale_groups", "pre_quantization_optimization"),
        **idle(_RUN, "gpu_resident_blocks", "sync_moe_expert_input_amax", "keep_prequantized_layers"),
        "export": Key(
            keys={
                "weight_format": only("real_quantized fake_quantized", "is no form of weights that is known here"),
                "pack_method": only("reorder order", "is no order of codes that is known here"),
                **idle(_CACHE, "kv_cache_group", "min_kv_scale"),
                **idle(_HOW, "weight_merge_groups"),
            }
        ),
        **heeded("weight_block_size"),
        **off(_ROTATED, "rotation", "rotation_config"),
    },
    library="Quark",
)

TORCHAO: Final = Scheme(
    "torchao",
    "torchao 0.18, transformers 5.23",
    ("torchao",),
    {
        **_METHOD,
        **idle("the file's metadata says the class of each weight", "quant_type", "quant_type_kwargs"),
        **idle(_WHERE, "modules_to_not_convert", "include_input_output_embeddings", "include_embedding"),
        **idle("both matrices are stored", "untie_embedding_weights"),
        **idle(_RUN, "version", "torchao_version"),
    },
    library="torchao",
)
