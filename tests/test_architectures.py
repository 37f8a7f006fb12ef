"""Every family, HF -> ggml -> HF: names, shapes, values, hyperparameters."""

import json

import numpy as np
import pytest
import transformers

from requant.architectures import translate
from requant.encodings import F32
from requant.formats.safetensors import Safetensors
from requant.ir import Checkpoint, Naming, Tensor
from requant.plan import Translation
from requant.sources import Memory
from tests.naive_moves import carried_out, values
from tests.tiny_models import MODELS, make


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A function from the name of a tiny model to the folder it was saved in."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("tiny") / name
            make(name, made[name])
        return made[name]

    return folder


def described(translation: Translation, naming: Naming) -> Checkpoint[Tensor]:
    """The checkpoint that carrying out a translation gives, in memory and in F32."""
    tensors = tuple(
        Tensor(move.name, move.shape, F32, {"data": Memory(carried_out(move).astype("<f4").tobytes())})
        for move in translation.moves
    )
    return Checkpoint(
        naming, translation.architecture, tensors, translation.config, translation.metadata, translation.files
    )


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith(("llama", "mi"))])
def test_there_and_back(name, folders, tmp_path):
    source = Safetensors().read(folders(name))
    ggml = described(translate(source, Naming.GGML), Naming.GGML)
    back = described(translate(ggml, Naming.HF), Naming.HF)

    before = {tensor.name: values(tensor) for tensor in source.tensors}
    after = {tensor.name: values(tensor) for tensor in back.tensors}
    assert after.keys() == before.keys()
    for tensor, array in before.items():
        assert np.array_equal(after[tensor], array), tensor

    (tmp_path / "config.json").write_text(json.dumps(back.config))
    ours = transformers.AutoConfig.from_pretrained(tmp_path)
    theirs = transformers.AutoConfig.from_pretrained(folders(name))
    # a Mistral without its window computes what a Llama does, and GGUF has one architecture for both
    assert type(ours) is (transformers.LlamaConfig if name == "mistral" else type(theirs))
