#!/usr/bin/env bash
# GPTQModel 7.7.0 and transformers 5.23.0 (optimum 2.3.0): GPTQModel's `dynamic` gives layers widths of their own, and its
# folder says so in quantization_config. transformers, which hands that config to GPTQModel's layers by way of optimum,
# makes all of them of the one width in `bits`: down_proj.qweight is [64, 128] in the file and [32, 128] in the model,
# and loading ends with a RuntimeError. GPTQModel itself loads the folder. Exits with 1 once transformers loads it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet)
"${pip[@]}" torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 requests==2.34.2
# without what they want for GPUs, and without the newer torch that GPTQModel asks for
"${pip[@]}" --no-deps gptqmodel==7.7.0 optimum==2.3.0 defuser==0.0.28 device-smi==0.5.7 dill==0.4.1 logbar==0.4.15 \
    loguru==0.7.3 pillow==13.0.0 pypcre==0.6.4 threadpoolctl==3.8.0 tokenicer==0.0.14 torchao==0.18.0
cd "$folder"
# its layers need no compiler then, and its pool of threads starts with fewer than three processors, too
export TORCHDYNAMO_DISABLE=1 GPTQMODEL_CPU_WORKERS=2
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from gptqmodel import GPTQModel, QuantizeConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.manual_seed(0)
words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(128)}, unk_token="w0"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
said = {"unk_token": "w0", "pad_token": "w1", "eos_token": "w2"}
PreTrainedTokenizerFast(tokenizer_object=words, **said).save_pretrained("plain")
sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
config = LlamaConfig(**sizes, vocab_size=128, pad_token_id=1, eos_token_id=2, bos_token_id=2)
LlamaForCausalLM(config).to(torch.float16).save_pretrained("plain")

how = QuantizeConfig(bits=4, group_size=32, dynamic={"+:.*down_proj": {"bits": 8}}, offload_to_disk=False)
model = GPTQModel.load("plain", how, device="cpu")
rows = [torch.randint(3, 128, (1, 64)) for _ in range(16)]
model.quantize([{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows], batch_size=1)
model.save("mixed")
with torch.no_grad():
    print("GPTQModel's logits:", tuple(GPTQModel.load("mixed", device="cpu").model(rows[0]).logits.shape))
try:
    AutoModelForCausalLM.from_pretrained("mixed", device_map="cpu")
except RuntimeError as error:
    print("transformers:", error)
else:
    sys.exit(1)
PYTHON
