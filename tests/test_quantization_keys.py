"""Quantization configs as published checkpoints have them are understood, and no other key passes."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from requant.errors import UnsupportedError
from requant.formats.folding.keys import SCHEMES, scheme_of
from requant.formats.folding.keys.rule import unclaimed
from requant.ir import QUANTIZATION_FILES
from tests.stored import read_folder

FLOAT8 = {"dynamic": False, "num_bits": 8, "type": "float"}
ARGS = {
    "actorder": None,
    "block_structure": None,
    "dynamic": False,
    "group_size": 128,
    "num_bits": 4,
    "observer": "mse",
    "observer_kwargs": {},
    "strategy": "group",
    "symmetric": True,
    "type": "int",
    "scale_dtype": None,
    "zp_dtype": None,
}
QUARK_WEIGHT = {
    "ch_axis": -1,
    "dtype": "fp4",
    "group_size": 32,
    "is_dynamic": False,
    "observer_cls": "PerBlockMXObserver",
    "qscheme": "per_group",
    "round_method": "half_even",
    "scale_format": "e8m0",
    "scale_type": "float",
    "scale_calculation_mode": "even",
    "symmetric": None,
    "mx_element_dtype": None,
    "is_scale_quant": False,
}
QUARK_LAYER = {
    "weight": QUARK_WEIGHT,
    "bias": None,
    "output_tensors": None,
    "target_device": None,
    "input_tensors": {"dtype": "fp4", "is_dynamic": True},
}

#: Whose checkpoints have it -> the configuration, with the values that such checkpoints have.
PUBLISHED = {
    "AutoGPTQ, quantize_config.json": {
        "bits": 4,
        "group_size": 128,
        "damp_percent": 0.1,
        "desc_act": True,
        "static_groups": False,
        "sym": True,
        "true_sequential": True,
        "model_name_or_path": "somebody/llama",
        "model_file_base_name": "model",
    },
    "AutoGPTQ on the Hub": {
        "bits": 4,
        "group_size": 128,
        "damp_percent": 0.1,
        "desc_act": False,
        "sym": True,
        "true_sequential": True,
        "model_name_or_path": None,
        "model_file_base_name": "model",
        "quant_method": "gptq",
    },
    "optimum's GPTQ": {
        "batch_size": 1,
        "bits": 4,
        "block_name_to_quantize": None,
        "cache_block_outputs": True,
        "damp_percent": 0.1,
        "dataset": None,
        "desc_act": False,
        "exllama_config": {"version": 1},
        "group_size": 128,
        "sym": True,
        "max_input_length": None,
        "model_seqlen": None,
        "module_name_preceding_first_block": None,
        "tokenizer": None,
        "modules_in_block_to_quantize": None,
        "pad_token_id": None,
        "quant_method": "gptq",
        "use_cuda_fp16": False,
        "true_sequential": True,
        "use_exllama": True,
        "disable_exllama": False,
    },
    "GPTQModel 2": {
        "bits": 4,
        "checkpoint_format": "gptq",
        "desc_act": False,
        "dynamic": {"-:.*gate": {}},
        "group_size": 32,
        "hyb_act": False,
        "lm_head": False,
        "pack_dtype": "int32",
        "quant_method": "gptq",
        "sym": True,
        "meta": {"quantizer": ["gptqmodel:2.0.0"], "damp_percent": 0.01, "true_sequential": True, "mse": 0.0},
    },
    "GPTQModel 7.7": {
        "bits": 4,
        "group_size": 128,
        "desc_act": False,
        "lm_head": False,
        "method": "gptq",
        "quant_method": "gptq",
        "format": "gptq",
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
        "sym": True,
        "meta": {
            "quantizer": ["gptqmodel:7.7.0"],
            "fallback": {"strategy": "rtn"},
            "gc_mode": "interval",
            "foem": None,
        },
    },
    "AutoAWQ": {
        "bits": 4,
        "group_size": 128,
        "modules_to_not_convert": None,
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": True,
    },
    "AutoAWQ, quant_config.json": {
        "zero_point": True,
        "q_group_size": 128,
        "w_bit": 4,
        "version": "GEMM",
        "modules_to_not_convert": [],
    },
    "transformers' AWQ": {
        "backend": "autoawq",
        "bits": 4,
        "do_fuse": False,
        "exllama_config": None,
        "fuse_max_seq_len": None,
        "group_size": 128,
        "modules_to_fuse": None,
        "modules_to_not_convert": ["visual"],
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": True,
    },
    "auto-round 0.3": {
        "amp": True,
        "autoround_version": "0.3.1.dev",
        "backend": "auto_round:exllamav2",
        "batch_size": 8,
        "bits": 4,
        "data_type": "int",
        "dataset": "NeelNanda/pile-10k",
        "enable_minmax_tuning": True,
        "group_size": 128,
        "enable_norm_bias_tuning": False,
        "enable_quanted_input": True,
        "gradient_accumulate_steps": 1,
        "iters": 200,
        "low_gpu_mem_usage": False,
        "lr": 0.005,
        "minmax_lr": 0.005,
        "nsamples": 128,
        "quant_block_list": None,
        "quant_method": "intel/auto-round",
        "scale_dtype": "torch.float16",
        "seqlen": 2048,
        "sym": True,
        "train_bs": 8,
    },
    "auto-round 0.6": {
        "autoround_version": "0.6.0",
        "bits": 4,
        "data_type": "int",
        "group_size": 128,
        "iters": 0,
        "sym": True,
        "packing_format": "auto_round:auto_gptq",
        "quant_method": "auto-round",
        "low_gpu_mem_usage": True,
        "extra_config": {"lm_head": {"bits": 8, "data_type": "int", "group_size": 128, "sym": True, "act_bits": 16}},
        "block_name_to_quantize": "model.layers",
    },
    "exllamav2": {
        "quant_method": "exl2",
        "version": "0.2.4",
        "bits": 4.0,
        "head_bits": 6,
        "calibration": {"rows": 115, "length": 2048, "dataset": "(default)"},
    },
    "hqq in transformers": {
        "quant_config": {
            "offload_meta": False,
            "scale_quant_params": None,
            "weight_quant_params": {"axis": 1, "group_size": 64, "nbits": 4, "view_as_float": False, "optimize": True},
            "zero_quant_params": None,
        },
        "quant_method": "hqq",
        "skip_modules": ["lm_head"],
    },
    "mlx-lm, mixed": {
        "group_size": 64,
        "bits": 4,
        "mode": "affine",
        "model.embed_tokens": {"group_size": 64, "bits": 6},
        "lm_head": False,
    },
    "bitsandbytes, 4 bits": {
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "bnb_4bit_compute_dtype": "bfloat16",
        "load_in_4bit": True,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "load_in_8bit": False,
        "llm_int8_skip_modules": ["lm_head"],
        "llm_int8_threshold": 6.0,
        "quant_method": "bitsandbytes",
    },
    "llm-compressor, W4A16": {
        "config_groups": {
            "group_0": {"input_activations": None, "output_activations": None, "targets": ["Linear"], "weights": ARGS}
        },
        "format": "pack-quantized",
        "global_compression_ratio": None,
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "version": "0.12.2",
        "sparsity_config": {},
        "transform_config": {},
    },
    "llm-compressor, mixed": {
        "config_groups": {
            "group_0": {
                "format": "nvfp4-pack-quantized",
                "targets": ["re:.*mlp.*"],
                "weights": ARGS | {"type": "float"},
            },
            "group_1": {"format": "float-quantized", "targets": ["Linear"], "weights": ARGS | {"type": "float"}},
        },
        "format": "mixed-precision",
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    },
    "DeepSeek-V3": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "DeepSeek-V3.1": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "scale_fmt": "ue8m0",
        "weight_block_size": [128, 128],
    },
    "Qwen3-FP8": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"],
    },
    "Llama 4 of Meta": {
        "activation_scale_ub": 1200.0,
        "modules_to_not_convert": ["lm_head"],
        "quant_method": "fbgemm_fp8",
    },
    "gpt-oss": {"modules_to_not_convert": ["model.layers.*.self_attn"], "quant_method": "mxfp4"},
    "ModelOpt, hf_quant_config.json": {
        "producer": {"name": "modelopt", "version": "0.29.0"},
        "quantization": {
            "quant_algo": "NVFP4",
            "kv_cache_quant_algo": "FP8",
            "group_size": 16,
            "exclude_modules": ["lm_head"],
        },
    },
    "ModelOpt, mixed": {
        "producer": {"name": "modelopt", "version": "0.33.1"},
        "quantization": {
            "quant_algo": "MIXED_PRECISION",
            "kv_cache_quant_algo": None,
            "quantized_layers": {
                "model.layers.0.mlp.up_proj": {
                    "quant_algo": "W4A16_AWQ",
                    "group_size": 128,
                    "has_zero_point": False,
                    "pre_quant_scale": True,
                },
                "model.layers.0.mlp.down_proj": {"quant_algo": "FP8"},
            },
        },
    },
    "ModelOpt, config.json": {
        "config_groups": {"group_0": {"input_activations": FLOAT8, "weights": FLOAT8, "targets": ["Linear"]}},
        "ignore": ["lm_head"],
        "quant_algo": "FP8",
        "kv_cache_scheme": FLOAT8,
        "quant_method": "modelopt",
        "producer": {"name": "modelopt", "version": "0.37.0"},
    },
    "Quark": {
        "algo_config": None,
        "exclude": ["lm_head"],
        "global_quant_config": QUARK_LAYER,
        "layer_quant_config": {},
        "export": {
            "kv_cache_group": [],
            "min_kv_scale": 0.0,
            "pack_method": "reorder",
            "weight_format": "real_quantized",
            "weight_merge_groups": None,
        },
        "kv_cache_quant_config": {},
        "layer_type_quant_config": {},
        "quant_method": "quark",
        "version": "0.10",
        "quant_mode": "eager_mode",
        "softmax_quant_spec": None,
        "kv_cache_post_rope": False,
    },
    "Quark with AWQ": {
        "algo_config": [{"name": "awq", "scaling_layers": [], "model_decoder_layers": "model.layers"}],
        "exclude": [],
        "global_quant_config": QUARK_LAYER,
        "quant_method": "quark",
    },
    "torchao": {
        "include_input_output_embeddings": False,
        "modules_to_not_convert": None,
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_version": 2, "_data": {"group_size": 32}}},
        "quant_type_kwargs": {},
        "untie_embedding_weights": False,
    },
}
#: What changes values, and is not read -> what the message names.
CHANGED = {
    "GPTQModel rotated otherwise": ({"quant_method": "gptq", "bits": 4, "rotation": "cayley"}, "rotation"),
    "a pack of 64 bits": ({"quant_method": "gptq", "bits": 4, "pack_dtype": "int64"}, "pack_dtype"),
    "BitBLAS": ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "bitblas"}, "checkpoint_format"),
    "another AWQ": ({"quant_method": "awq", "bits": 4, "version": "gemm_v9"}, "version"),
    "another element": ({"quant_method": "auto-round", "data_type": "nvfp4_v2"}, "data_type"),
    "another element of a layer": (
        {"quant_method": "auto-round", "data_type": "int", "extra_config": {"lm_head": {"data_type": "e5m3"}}},
        "extra_config.lm_head.data_type",
    ),
    "another packing": ({"quant_method": "auto-round", "packing_format": "auto_round:nvfp4_e5m3"}, "packing_format"),
    "SpinQuant": ({"quant_method": "auto-round", "spinquant_config": {"r1": True}}, "spinquant_config"),
    "transforms": (
        {"quant_method": "compressed-tensors", "transform_config": {"config_groups": {"u": {}}}},
        "transform_config",
    ),
    "another format": ({"quant_method": "compressed-tensors", "format": "ternary"}, "format"),
    "another strategy": (
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"strategy": "lattice"}}}},
        "config_groups.group_0.weights.strategy",
    ),
    "another FP8": ({"quant_method": "fp8", "fmt": "e3m4"}, "fmt"),
    "another scale": ({"quant_method": "fp8", "scale_fmt": "ue5m3"}, "scale_fmt"),
    "another algorithm": ({"quant_method": "modelopt", "quant_algo": "NVFP2"}, "quant_algo"),
    "a low-rank product": ({"quant_method": "modelopt", "quant_algo": "NVFP4_SVD", "lora_rank": 32}, "lora_rank"),
    "Quark rotated": ({"quant_method": "quark", "algo_config": [{"name": "rotation"}]}, "algo_config[0].name"),
    "Quark rotated, one of old": ({"quant_method": "quark", "algo_config": {"name": "quarot"}}, "algo_config.name"),
    "Quark's other elements": (
        {"quant_method": "quark", "global_quant_config": {"weight": [{"dtype": "int4"}, {"dtype": "lut4"}]}},
        "global_quant_config.weight[1].dtype",
    ),
    "another mode of MLX": ({"bits": 4, "group_size": 32, "mode": "lattice"}, "mode"),
    "AWQ rotated": ({"quant_method": "awq", "bits": 4, "rotation": "hadamard"}, "rotation"),
    "ParoQuant": ({"quant_method": "paroquant", "bits": 4}, "quant_method"),
    "no method that is known": ({"quant_method": "hyperquant", "bits": 4}, "hyperquant"),
    "a method that is no name": ({"quant_method": 7}, "7"),
}
ARRAYS = {"m.weight": np.zeros((8, 16), np.float16)}


@pytest.mark.parametrize("published", PUBLISHED)
def test_published_configurations_are_understood(tmp_path, published):
    config = PUBLISHED[published]
    assert read_folder(tmp_path, ARRAYS, {"quantization_config": config}).tensors
    scheme = scheme_of(config)
    assert scheme is not None
    assert not list(unclaimed(config, scheme))


@pytest.mark.parametrize("place", ["config.json", *QUANTIZATION_FILES])
@pytest.mark.parametrize("changed", CHANGED)
def test_what_changes_values_is_refused_by_name(tmp_path, changed, place):
    config, named = CHANGED[changed]
    inside = place == "config.json"
    if not inside:
        (tmp_path / place).write_text(json.dumps(config))
    with pytest.raises(UnsupportedError) as caught:
        read_folder(tmp_path, ARRAYS, {"quantization_config": config} if inside else {})
    assert named in str(caught.value)
    assert place in str(caught.value)
    assert caught.value.hint


NAMED = ("config_groups", "extra_config")
CLAIMED = (*NAMED, "global_quant_config", "export", "quantization", "weights")


def places(config, path=()):
    """Every object in a configuration whose keys are claimed, with its path."""
    yield path, config
    for key, value in config.items():
        if key in CLAIMED or (path and path[-1] in NAMED):
            yield from places(value, (*path, key))


KEYS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=3, max_size=20)
VALUES = st.one_of(st.integers(-9, 9), st.text(max_size=5), st.lists(st.integers(), max_size=2), st.floats(0, 1))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_key_that_no_table_knows_is_found_wherever_it_lies(data):
    name = data.draw(st.sampled_from(sorted(PUBLISHED)))
    config = json.loads(json.dumps(PUBLISHED[name]))
    scheme = scheme_of(config)
    path, inside = data.draw(st.sampled_from(list(places(config))))
    known = {key for each in SCHEMES for key in each.keys}
    key = data.draw(KEYS.filter(lambda key: key not in known))
    if path and path[-1] in NAMED:
        return  # names of groups and of layers
    inside[key] = data.draw(VALUES)
    assert [found.path.rpartition(".")[2] for found in unclaimed(config, scheme)] == [key]


def test_every_scheme_says_where_its_keys_are_from_and_why_they_matter_not():
    for scheme in SCHEMES:
        assert scheme.source and scheme.methods
        for name, key in scheme.keys.items():
            answers = [bool(key.idle), key.words is not None, key.keys is not None, key.each is not None]
            assert sum(answers) <= 1, (scheme.name, name)
            assert (key.words is None) == (not key.refused), (scheme.name, name)


@pytest.mark.parametrize("wrong", ["gptq", 4, [1]])
def test_a_configuration_that_is_no_object_is_an_error(tmp_path, wrong):
    with pytest.raises(Exception, match=r"quantization_config of config\.json is .*, not an object"):
        read_folder(tmp_path, ARRAYS, {"quantization_config": wrong})


@pytest.mark.parametrize("key", ["rotation", "rotation_config"])
def test_a_rotation_that_only_another_file_tells_is_refused(tmp_path, key):
    method = {"rotation": "gptq", "rotation_config": "auto-round"}[key]
    (tmp_path / "quantize_config.json").write_text(json.dumps({"quant_method": method, "bits": 4, key: "hadamard"}))
    with pytest.raises(UnsupportedError, match=rf"quantize_config\.json says {key} = 'hadamard'"):
        read_folder(tmp_path, ARRAYS, {"quantization_config": {"quant_method": method, "bits": 4}})


DOCS = Path(__file__).parents[1] / "docs/quantized-folders.md"


def table():
    rows = [f"| {scheme.name} | {', '.join(scheme.methods)} | {scheme.source} |" for scheme in SCHEMES]
    return "\n".join(["| scheme | `quant_method` | sources |", "|---|---|---|", *rows])


def test_the_documented_schemes_are_those_of_the_code():
    if os.environ.get("REQUANT_ACCEPT"):
        marked = re.compile(r"(<!-- schemes -->\n).*(<!-- end -->\n)", re.DOTALL)
        DOCS.write_text(marked.sub(lambda match: f"{match[1]}{table()}\n{match[2]}", DOCS.read_text()))
    assert table() in DOCS.read_text()
