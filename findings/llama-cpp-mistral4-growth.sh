#!/usr/bin/env bash
# llama.cpp's converter, as llama-cpp-python 0.3.36 carries it (October 2026), and transformers 5.23.0: the queries of
# Mistral Small 4 (mistral4) grow with the distance from the beginning (`llama_4_scaling_beta`), as those of Ministral 3
# (mistral3) do. The runtime reads attention.temperature_scale for both architectures; the converter writes it for one.
# Seen: mistral3.attention.temperature_scale is 0.1; mistral4.attention.temperature_scale is missing, so that logits
# differ from transformers' behind the context of training (8,192 tokens of the published model).
# Right: the key in both. Exits with 1 once it is there.
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
from transformers import Ministral3Config, Ministral3ForCausalLM, Mistral4Config, Mistral4ForCausalLM

rope = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 512,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
sizes = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 96,
    "max_position_embeddings": 2048,
    "pad_token_id": None,
    "rope_parameters": rope,
}
latent = {"q_lora_rank": 32, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 24}
experts = {"moe_intermediate_size": 48, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
found = {}
for made in (
    Ministral3ForCausalLM(Ministral3Config(**sizes, head_dim=16)),
    Mistral4ForCausalLM(Mistral4Config(**sizes, **latent, **experts)),
):
    name = made.config.model_type
    made.save_pretrained(name)
    with torch.inference_mode():
        hparams = ModelBase.load_hparams(Path(name), False)
        kind = get_model_class("Mistral3ForConditionalGeneration")  # as the published models say
        model = kind(Path(name), gguf.LlamaFileType.ALL_F32, Path(f"{name}.gguf"), hparams=hparams)
        model.impl.set_vocab = model.set_vocab = lambda: None  # the vocabulary does not matter here
        model.write()
    fields = gguf.GGUFReader(f"{name}.gguf").fields
    architecture = fields["general.architecture"].contents()
    field = fields.get(f"{architecture}.attention.temperature_scale")
    found[architecture] = None if field is None else round(float(field.contents()), 3)
print(f"attention.temperature_scale: {found}")
sys.exit(0 if found == {"mistral3": 0.1, "mistral4": None} else 1)
PYTHON
