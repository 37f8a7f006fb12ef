"""What `benchmarks/prune.py` runs in llm-compressor's environment: its arithmetic on every linear layer of a folder.

    python llm_compressor_prune.py SOURCE DESTINATION METHOD SPARSITY STATISTICS.npz

METHOD is magnitude, wanda or sparsegpt; SPARSITY a share or N:M with N of M that become zero. STATISTICS holds what
each layer is given, by its name: squares of columns, or for SparseGPT Hessians. Prints the seconds that loading,
pruning and saving took, as JSON. (`python -P`: a module beside this one has the name of one that transformers imports.)
"""

import json
import sys
import time

import numpy as np
import torch
from llmcompressor.modifiers.pruning.sparsegpt import sgpt_sparsify
from llmcompressor.modifiers.pruning.utils.pytorch import PruningMaskCreatorArgs, PruningMaskFactory
from llmcompressor.modifiers.pruning.wanda import wanda_sparsify
from transformers import AutoModelForCausalLM, AutoTokenizer


def pruned(module, name, method, share, n, m, statistics):
    """The module's weights as llm-compressor's modifier makes them."""
    if method == "magnitude":
        creator = PruningMaskFactory.create_mask_creator(f"{n}:{m}" if n else "unstructured")
        scores = module.weight.data.abs()
        mask = creator(PruningMaskCreatorArgs(parameter=module.weight, sparsity=share, scores=scores))
        return module.weight.data * mask
    given = {module: torch.from_numpy(statistics[name])}
    if method == "wanda":
        return wanda_sparsify.sparsify_weight(module, given, share, n, m)
    return sgpt_sparsify.sparsify_weight(module, given, share, n, m, 128, 0.01, False)[1]


def main() -> None:
    """Load, prune, save."""
    source, destination, method, sparsity, path = sys.argv[1:]
    n, m = map(int, sparsity.split(":")) if ":" in sparsity else (0, 0)
    share = n / m if n else float(sparsity)
    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    loaded = time.perf_counter()
    statistics = np.load(path) if method != "magnitude" else {}
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                module.weight.data = pruned(module, name, method, share, n, m, statistics)
    done = time.perf_counter()
    model.save_pretrained(destination)
    AutoTokenizer.from_pretrained(source).save_pretrained(destination)
    print(json.dumps({"load": loaded - began, "prune": done - loaded, "save": time.perf_counter() - done}))


if __name__ == "__main__":
    main()
