#!/usr/bin/env bash
# transformers 5.23.0 and llama.cpp's converter, as llama-cpp-python 0.3.36 carries it (October 2026): transformers saves
# DeepSeek V4 with a "model." before the release's names, and with mlp_layer_types in config.json where the release says
# num_hash_layers. The converter knows the release alone: it ends with KeyError 'num_hash_layers', and with that key for
# want of layers.0.ffn.gate.tid2eid, which is there as model.layers.0.ffn.gate.tid2eid; a fine-tune that transformers
# has saved becomes no GGUF. Exits with 1 once it does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.23.0 sentencepiece protobuf
"$folder/venv/bin/python" -m pip download --quiet --no-deps --no-binary llama-cpp-python -d "$folder" llama-cpp-python==0.3.36
tar -xzf "$folder"/llama_cpp_python-0.3.36.tar.gz -C "$folder"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from pathlib import Path

sys.path[:0] = [f"llama_cpp_python-0.3.36/vendor/llama.cpp/{part}" for part in ("gguf-py", "")]
import gguf
import torch
from conversion import ModelBase, get_model_class
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

layers = {
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
    "mlp_layer_types": ["hash_moe", "moe", "moe"],
}
sizes = {"hidden_size": 64, "vocab_size": 96, "num_attention_heads": 4, "head_dim": 128, "q_lora_rank": 32}
groups = {"o_groups": 2, "o_lora_rank": 24, "qk_rope_head_dim": 32, "index_n_heads": 4, "index_head_dim": 64}
experts = {"moe_intermediate_size": 64, "n_routed_experts": 8, "num_experts_per_tok": 2}
said = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 2048}
DeepseekV4ForCausalLM(DeepseekV4Config(**layers, **sizes, **groups, **experts, **said)).save_pretrained("v4")
hparams = ModelBase.load_hparams(Path("v4"), False)
kind = get_model_class("DeepseekV4ForCausalLM")


def model(**more):
    return kind(Path("v4"), gguf.LlamaFileType.ALL_F32, Path("v4.gguf"), hparams={**hparams, **more})


found = []
with torch.inference_mode():
    for more in ({}, {"num_hash_layers": 1}):
        try:
            model(**more).prepare_tensors()
        except (KeyError, ValueError) as error:
            found.append(error)
            print("the converter:", repr(error))
sys.exit(len(found) < 2)
PYTHON
