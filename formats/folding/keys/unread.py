"""Keys of methods whose codes are not read: such a configuration may lie beside floats that are quantized when loaded.

Source: transformers 5.23 (`quantization_config.py`), vLLM 0.33. Their packed arrays are refused by name.
"""

from __future__ import annotations

from typing import Final

from requant.formats.folding.keys.rule import Scheme, heeded, idle

_LOADED: Final = "how floats are quantized when they are loaded"
_KEYS: Final = {
    **heeded("quant_method"),
    **idle(
        _LOADED,
        *("bits", "nbits", "group_size", "weights", "activations", "version", "p", "dtype", "num_bits", "method"),
        *("modules_to_not_convert", "linear_weights_not_to_quantize", "ignore", "exclude", "ignored_layers"),
        *("in_group_size", "out_group_size", "num_codebooks", "nbits_per_codebook", "beta1", "beta2", "shapes"),
        *("enable_proxy_error", "config_for_layers", "shared_layer_config", "tune_metadata", "hadamard_size"),
        *("forward_dtype", "forward_method", "backward_dtype", "store_master_weights", "hadamard_group_size"),
        *("transform_init", "linear_class", "quantization_mode", "use_rms_norm", "rms_norm_eps", "dequantize"),
        *("tiling_mode", "quantize_embeddings", "module_quant_configs", "activation_dtype", "activation_scale_rule"),
        *("gradient_dtype", "gradient_scale_rule", "keep_master_weights", "matmul_backend", "output_dtype"),
        *("quantize_backend", "scale_rule", "weight_dtype", "weight_scale_2d", "weight_scale_rule"),
        *("module_config_overrides", "head_bits", "calibration", "tensor_storage", "out_scales", "codebook"),
        *(
            "quantization_type",
            "llm_int8_skip_modules",
            "layer_quant",
            "meta",
            "format",
            "checkpoint_format",
            "lm_head",
        ),
        *("desc_act", "sym", "pack_dtype", "damp_percent", "wbits", "true_sequential", "static_groups", "gguf_file"),
    ),
}

UNREAD: Final = Scheme(
    "a method that is not read here",
    "transformers 5.23, vLLM 0.33",
    (
        *("exl3", "aqlm", "quip", "quip_sharp", "vptq", "spqr", "higgs", "fp_quant", "quanto", "eetq", "bitnet"),
        *("sinq", "fouroversix", "metal", "qqq", "gemma", "gguf", "humming", "ipex", "bitblas", "gptq_bitblas"),
    ),
    _KEYS,
)
