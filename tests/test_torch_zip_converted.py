"""Folders of torch's own files on their way to GGUF: the bytes are those that safetensors give."""

import json

import pytest
import torch
from safetensors.torch import load_file

from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion
from tests.tiny_folder import write_tiny_folder


def gguf(source, destination):
    plan = plan_conversion(detect(source).read(source), FORMATS["gguf"], destination, Request("Q8_0"))
    execute(plan, Options(workers=2))
    return destination.read_bytes()


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_of_bin_files_becomes_the_same_gguf(tmp_path, shards):
    wanted = gguf(write_tiny_folder(tmp_path / "tiny"), tmp_path / "wanted.gguf")
    folder = tmp_path / "tiny"
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        names = list(tensors)
        files = {name: f"pytorch_model-{1 + n % shards:05}-of-{shards:05}.bin" for n, name in enumerate(names)}
        for file in set(files.values()):
            torch.save({name: tensors[name] for name in names if files[name] == file}, folder / file)
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert gguf(folder, tmp_path / "ours.gguf") == wanted
