"""What `benchmarks/folders.py` runs in a peer's environment: it quantizes a whole folder.

    python -P peers_quantize.py LIBRARY RECIPE SOURCE DESTINATION WINDOWS.npy

LIBRARY is gptqmodel or llmcompressor, RECIPE what requant is asked for: GPTQ-4-128 (symmetric), AWQ-4-128 (with zeros),
or, of llm-compressor's GPTQ, W8A8, FP8, NVFP4 or MXFP4; or LIBRARY is auto-round, and RECIPE a mix of llama.cpp's, such
as Q4_K_S, of which it writes a GGUF. WINDOWS holds tokens [windows, tokens]. Prints as JSON the
seconds and processor seconds of quantizing, without loading and saving (auto-round does both at once).
"""

import json
import sys
import time

import numpy as np
import torch

DAMPING = 0.05


def clocks():
    """Seconds, processor seconds."""
    return time.perf_counter(), time.process_time()


#: requant's names, and compressed-tensors'.
SCHEMES = {"W8A8": "W8A8", "FP8": "FP8_DYNAMIC", "NVFP4": "NVFP4A16", "MXFP4": "MXFP4A16"}


def by_gptqmodel(recipe, source, destination, windows):
    """With scales from a group's range, columns as they lie; AWQ in its own way."""
    from gptqmodel import GPTQModel, QuantizeConfig

    method, bits, group = recipe.split("-")
    if method == "AWQ":
        more = {"method": "awq", "format": "gemm", "sym": False}
    else:
        more = {"desc_act": False, "act_group_aware": False, "damp_percent": DAMPING, "sym": True}
    how = QuantizeConfig(bits=int(bits), group_size=int(group), offload_to_disk=False, **more)
    model = GPTQModel.load(source, how, device="cpu")
    given = [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in windows]
    began = clocks()
    model.quantize(given, batch_size=1)
    ended = clocks()
    model.save(destination)
    return began, ended


def recipe_of_llmcompressor(recipe):
    """Its modifiers."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    rest = {"ignore": ["lm_head"]}
    if recipe in SCHEMES:
        return [GPTQModifier(targets=["Linear"], scheme=SCHEMES[recipe], dampening_frac=DAMPING, **rest)]
    method, bits, group = recipe.split("-")
    size = {"num_bits": int(bits), "strategy": "group", "group_size": int(group)}
    weights = QuantizationArgs(symmetric=method == "GPTQ", **size)
    groups = {"config_groups": {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}}
    if method == "AWQ":
        return [AWQModifier(), QuantizationModifier(**groups, **rest)]
    return [GPTQModifier(dampening_frac=DAMPING, **groups, **rest)]


def by_llmcompressor(recipe, source, destination, windows):
    """As compressed-tensors; what has zero points as plain numbers, for transformers 5.23 loads no packed ones."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not torch.accelerator.is_available():
        torch.Tensor.pin_memory = lambda self: self  # its AWQ pins inputs, whatever machine there is
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    rows = Dataset.from_dict({"input_ids": windows.tolist(), "attention_mask": torch.ones_like(windows).tolist()})
    size = {"max_seq_length": windows.shape[1], "num_calibration_samples": len(windows)}
    began = clocks()
    oneshot(model=model, dataset=rows, recipe=recipe_of_llmcompressor(recipe), **size)
    ended = clocks()
    model.save_pretrained(destination, save_compressed=not recipe.startswith("AWQ"))
    AutoTokenizer.from_pretrained(source).save_pretrained(destination)
    return began, ended


def by_autoround(recipe, source, destination, windows):
    """Signed gradient descent over roundings, 200 steps a layer: what it does unless it is told."""
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    given = [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in windows]
    size, scheme = {"nsamples": len(windows), "seqlen": windows.shape[1]}, f"gguf:{recipe.lower()}"
    began = clocks()
    rounding = AutoRound(
        model, AutoTokenizer.from_pretrained(source), scheme=scheme, dataset=given, device_map="cpu", **size
    )
    rounding.quantize_and_save(destination, format=scheme)
    return began, clocks()


def main() -> None:
    """Quantize and tell."""
    library, recipe, source, destination, path = sys.argv[1:]
    windows = torch.from_numpy(np.load(path))
    run = {"gptqmodel": by_gptqmodel, "llmcompressor": by_llmcompressor, "auto-round": by_autoround}[library]
    began, ended = run(recipe, source, destination, windows)
    print("\n" + json.dumps([end - start for start, end in zip(began, ended, strict=True)]))


if __name__ == "__main__":
    main()
