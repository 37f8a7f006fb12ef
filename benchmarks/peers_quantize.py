"""What `benchmarks/folders.py` runs in a peer's environment: it quantizes a whole folder to 4 bits by GPTQ, symmetric.

    python -P peers_quantize.py LIBRARY GROUP SOURCE DESTINATION WINDOWS.npy

LIBRARY is gptqmodel or llmcompressor; WINDOWS holds tokens [windows, tokens]. Prints as JSON the seconds and processor
seconds of quantizing, without loading and saving.
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


def by_gptqmodel(group, source, destination, windows):
    """With scales from a group's range, columns as they lie."""
    from gptqmodel import GPTQModel, QuantizeConfig

    how = QuantizeConfig(
        bits=4,
        group_size=group,
        desc_act=False,
        act_group_aware=False,
        damp_percent=DAMPING,
        sym=True,
        offload_to_disk=False,
    )
    model = GPTQModel.load(source, how, device="cpu")
    given = [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in windows]
    began = clocks()
    model.quantize(given, batch_size=1)
    ended = clocks()
    model.save(destination)
    return began, ended


def by_llmcompressor(group, source, destination, windows):
    """As compressed-tensors."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    weights = QuantizationArgs(num_bits=4, symmetric=True, strategy="group", group_size=group)
    groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
    recipe = [GPTQModifier(config_groups=groups, ignore=["lm_head"], dampening_frac=DAMPING)]
    rows = Dataset.from_dict({"input_ids": windows.tolist(), "attention_mask": torch.ones_like(windows).tolist()})
    size = {"max_seq_length": windows.shape[1], "num_calibration_samples": len(windows)}
    began = clocks()
    oneshot(model=model, dataset=rows, recipe=recipe, **size)
    ended = clocks()
    model.save_pretrained(destination, save_compressed=True)
    AutoTokenizer.from_pretrained(source).save_pretrained(destination)
    return began, ended


def main() -> None:
    """Quantize and tell."""
    library, group, source, destination, path = sys.argv[1:]
    windows = torch.from_numpy(np.load(path))
    run = {"gptqmodel": by_gptqmodel, "llmcompressor": by_llmcompressor}[library]
    began, ended = run(int(group), source, destination, windows)
    print("\n" + json.dumps([end - start for start, end in zip(began, ended, strict=True)]))


if __name__ == "__main__":
    main()
