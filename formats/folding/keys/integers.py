"""Keys of what stores integers in groups: GPTQ, AWQ, auto-round, ParoQuant, EXL2, HQQ, MLX, bitsandbytes.

Sources: GPTQModel 7.7 (`quantization/config.py`), AutoGPTQ 0.7.1 (`BaseQuantizeConfig`), optimum 1.2, AutoAWQ 0.2.9,
llm-awq, auto-round 0.16 (`SerializedCompressorConfig`, `QuantizationScheme`, `filter_quantization_config`),
exllamav2 0.3.2, hqq 0.2.8, mlx-lm 0.32.2, bitsandbytes 0.50.2, transformers 5.23 (`quantization_config.py`), and the
readers of vLLM 0.33 and SGLang 0.5.
"""

from __future__ import annotations

from typing import Final

from requant.formats.folding.keys.rule import HEEDED, Key, Scheme, heeded, idle, off, only

_METHOD: Final = heeded("quant_method")
_HOW: Final = "how the codes were found, not what they are"
_WHERE: Final = "which layers are quantized shows by their arrays"
_RUN: Final = "how a kernel runs it"
_ACTIVATIONS: Final = "how inputs are rounded when it runs"
_ROTATED: Final = "means that weights are rotated, and inputs when it runs"

_GPTQ: Final[dict[str, Key]] = {
    **_METHOD,
    **heeded(
        "bits", "w_bit", "wbits", "group_size", "q_group_size", "sym", "zero_point", "desc_act", "dynamic", "meta"
    ),
    "method": only("gptq awq rtn gptaq foem gptq_pro", "is no method that is known here"),
    **dict.fromkeys(
        ("format", "checkpoint_format"),
        only("gptq gptq_v2 gptq_p marlin gemm gemv gemv_fast llm-awq", "is no format of weights that is known here"),
    ),
    "pack_dtype": only("int32 int16", "packs codes into other words"),
    "rotation": only("hadamard random", _ROTATED),  # a fold turns them back, or refuses
    **idle(
        _HOW,
        *("damp_percent", "damp_auto_increment", "static_groups", "true_sequential", "act_group_aware", "mse", "gptaq"),
        *(
            "foem",
            "v2",
            "v2_alpha",
            "v2_memory_device",
            "hessian",
            "hyb_act",
            "fail_safe",
            "failsafe",
            "fallback",
            "mock_quantization",
        ),
        *("block_size", "actorder", "act_order", "hessian_use_bfloat16_staging", "scale_search_chunked_activations"),
        *("preprocessors", "smoother", "smooth", "vram_strategy", "dataset", "tokenizer", "nsamples", "seqlen"),
        *(
            "model_seqlen",
            "batch_size",
            "pad_token_id",
            "max_input_length",
            "cache_block_outputs",
            "model_file_base_name",
        ),
        *("model_name_or_path", "module_name_preceding_first_block", "provider"),
        *("autoround_version", "iters", "lr"),
        *("minmax_lr", "enable_minmax_tuning", "enable_quanted_input", "enable_norm_bias_tuning", "scale_dtype"),
        *("low_gpu_mem_usage", "gradient_accumulate_steps", "amp", "data_type", "quant_block_list", "super_bits"),
        *("super_group_size",),
    ),
    **idle(
        _WHERE,
        *("lm_head", "modules_in_block_to_quantize", "inside_layer_modules", "block_name_to_quantize", "ignore"),
        *("modules_to_not_convert", "to_quant_block_names", "quantize_embed", "embed_quant_mode", "embed_only"),
    ),
    **idle(
        _RUN,
        *("use_exllama", "exllama_config", "max_input_length", "disable_exllama", "use_cuda_fp16", "backend", "device"),
        *("use_triton", "use_marlin", "is_marlin_format", "offload_to_disk", "offload_to_disk_path", "telemetry"),
        *("gc_mode", "compute_device_filter", "auto_forward_data_parallel", "wait_for_submodule_finalizers"),
        *("dense_vram_strategy", "dense_vram_strategy_devices", "moe_vram_strategy", "moe_vram_strategy_devices"),
    ),
    **idle(_ACTIVATIONS, "activation"),
    **idle("a low-rank product in files of its own, to be put on the model when it runs", "adapter"),
}

GPTQ: Final = Scheme(
    "GPTQ",
    "GPTQModel 7.7, AutoGPTQ 0.7.1, optimum 1.2, transformers 5.23",
    ("gptq", "gptq_marlin", "marlin", "gptaq", "rtn"),
    {**_GPTQ, "version": _GPTQ["format"]},
    library="GPTQModel",
)

AWQ: Final = Scheme(
    "AWQ",
    "AutoAWQ 0.2.9, llm-awq, GPTQModel 7.7, auto-round 0.16, transformers 5.23",
    ("awq", "awq_marlin", "llm-awq"),
    {
        **_GPTQ,
        **dict.fromkeys(
            ("version", "format", "checkpoint_format"),
            only("gemm gemv gemv_fast gemvfast llm-awq marlin exllama ipex", "is no layout of AWQ that is known here"),
        ),
        **idle(_HOW, "apply_clip", "n_parallel_calib_samples"),
        **idle(_RUN, "fuse_max_seq_len", "do_fuse", "modules_to_fuse", "exllama_config"),
        **off("divides activations by scales when it runs", "scale_activations"),
        **off(_ROTATED, "rotation"),  # only GPTQ's layers are turned back
    },
    library="AutoAWQ",
)

PARO: Final = Scheme(
    "ParoQuant",
    "paroquant 0.1.16, GPTQModel 7.7",
    ("paroquant", "paro"),
    {"quant_method": only("", "is ParoQuant: inputs of each layer are rotated in pairs, and scaled, when it runs")},
    library="paroquant",
)

_ROUNDED: Final = {
    **heeded("bits", "group_size", "sym"),
    "data_type": only(
        "int int_sym int_asym int_asym_float_zp mx_fp mx_fp4 mx_fp8 mx_fp4e2m1 mx_fp8e4m3 mx_fp_rceil nv_fp nv_fp4 "
        "fp fp8 fp8_sym fp8_static mx_int mx_int4 mxint4 float bf16 fp16 float16 bfloat16",
        "is no format of elements that is known here",
    ),
    **idle(_ACTIVATIONS, "act_bits", "act_group_size", "act_sym", "act_data_type", "act_dynamic", "act_scale_dtype"),
    **idle("of GGUF's types", "super_bits", "super_group_size"),
    **idle(_HOW, "scale_dtype", "fixed_by_user", "in_blocks", "tmp_dtype", "scale_format"),
    "rotation_config": Key(),
}

AUTO_ROUND: Final = Scheme(
    "auto-round",
    "auto-round 0.16 and earlier, transformers 5.23, vLLM 0.33",
    ("auto-round", "auto_round", "autoround", "intel/auto-round", "inc"),
    {
        **_METHOD,
        **_ROUNDED,
        **dict.fromkeys(
            ("packing_format", "backend", "vllm_backend", "checkpoint_format"),
            only(
                "auto auto_round auto_round:gptq auto_round:auto_gptq auto_round:gptqmodel auto_round:gptq_v2 "
                "auto_gptq gptq gptq_v2 gptqmodel auto_round:awq auto_round:auto_awq auto_awq awq auto_round:exllamav2 "
                "auto_round:tritonv2 auto_round:triton auto_round:torch auto_round:marlin auto_round:exllama "
                "auto_round:fp8 auto_round:fp8_static auto_round:fp8_block auto_round:llm_compressor "
                "auto_round:llm_compressor_fp8_static auto_round:nv_fp4 auto_round:mx_fp4 auto_round:fake "
                "autoround:exllamav2 autoround:triton autogptq:exllamav2 autoround:auto_gptq ipex marlin mlx "
                "auto_round:mlx auto_gptq:exllamav2 gptqmodel:exllamav2 gptqmodel:marlin "
                "hpu",
                "is no layout of auto-round that is known here",
            ),
        ),
        "extra_config": Key(each=_ROUNDED),
        "dynamic": HEEDED,
        **idle(
            _HOW,
            *("autoround_version", "auto_round_version", "provider", "iters", "lr", "minmax_lr", "nsamples", "seqlen"),
            *(
                "batch_size",
                "amp",
                "dataset",
                "enable_minmax_tuning",
                "enable_quanted_input",
                "enable_norm_bias_tuning",
            ),
            *(
                "low_gpu_mem_usage",
                "gradient_accumulate_steps",
                "quant_block_list",
                "use_quant_input",
                "not_use_best_mse",
            ),
            *("damp_percent", "true_sequential", "desc_act", "static_groups", "supported_types", "zero_point"),
            *("train_bs", "n_samples"),
            *("enable_torch_compile", "low_cpu_mem_usage", "seed", "sampler", "device"),
        ),
        **idle(
            _WHERE,
            *("block_name_to_quantize", "to_quant_block_names", "modules_to_not_convert", "ignore_layers", "lm_head"),
            *("quant_lm_head", "ignored_layers"),
        ),
        **idle(
            "how the cache and attention are rounded when it runs",
            *("static_kv_dtype", "static_attention_dtype", "static_kv_granularity", "static_attention_granularity"),
        ),
        **idle(_ACTIVATIONS, "fmt", "activation_scheme", "activation_scale_ub"),
        "weight_block_size": HEEDED,
        "spinquant_config": Key(words=frozenset(), refused=_ROTATED),
        **off(_ROTATED, "hadamard_config", "rotation_configs", "quarot_config", "transform_config"),
        **off("adds a low-rank product to the weights", "svdquant_config", "rank"),
    },
    library="auto-round",
)

EXL2: Final = Scheme(
    "EXL2",
    "exllamav2 0.3.2",
    ("exl2",),
    {
        **_METHOD,
        **heeded("bits", "head_bits"),
        **idle(_HOW, "version", "calibration"),
    },
    library="exllamav2",
)

_HQQ_PARAMS: Final = {
    **heeded("nbits", "group_size", "axis", "channel_wise", "view_as_float"),
    **idle(_HOW, "optimize", "round_zero"),
}
HQQ: Final = Scheme(
    "HQQ",
    "hqq 0.2.8, transformers 5.23",
    ("hqq",),
    {
        **_METHOD,
        "quant_config": HEEDED,  # what holds for a module is stored beside its codes
        **idle(_WHERE, "skip_modules", "modules_to_not_convert"),
        **heeded("nbits", "group_size", "axis", "view_as_float", "dynamic_config", "weight_quant_params"),
        **heeded("scale_quant_params", "zero_quant_params", "offload_meta", "bits"),
    },
    library="hqq",
)

_MLX_MODULE: Final = {
    **heeded("group_size", "bits", "global_scale"),
    "mode": only("affine mxfp4 mxfp8 nvfp4", "is no mode of MLX that is known here"),
}
MLX: Final = Scheme(
    "MLX",
    "mlx 0.32.4, mlx-lm 0.32.2",
    ("mlx", "mlx-lm", "affine"),
    {**_METHOD, **_MLX_MODULE, **idle(_HOW, "version", "linear_class", "quantization_mode")},
    others=Key(keys=_MLX_MODULE),
    library="mlx-lm",
)

BITSANDBYTES: Final = Scheme(
    "bitsandbytes",
    "bitsandbytes 0.50.2, transformers 5.23, unsloth",
    ("bitsandbytes", "bnb"),
    {
        **_METHOD,
        **idle(
            "the state stored beside each weight says it",
            *("load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit", "bnb_4bit_quant_type"),
            *("bnb_4bit_use_double_quant", "bnb_4bit_quant_storage", "bnb_4bit_blocksize", "bits", "group_size"),
        ),
        **idle(
            _RUN,
            *("bnb_4bit_compute_dtype", "llm_int8_threshold", "llm_int8_enable_fp32_cpu_offload"),
            *("llm_int8_has_fp16_weight", "version"),
        ),
        **idle(
            _WHERE, "llm_int8_skip_modules", "modules_to_not_convert", "target_modules", "llm_int8_quantize_modules"
        ),
    },
    library="bitsandbytes",
)
