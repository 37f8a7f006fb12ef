"""How zero points of GPTQ are written: by who wrote them, by what layers show, or as the user says."""

import json
from dataclasses import replace

import numpy as np
import pytest

from requant.codecs import codec_for
from requant.encodings.gptq import Gptq, Zeros
from requant.errors import PlanError
from requant.operations.gptq_format import read_as
from tests.stored import values_of
from tests.test_gptq import CONFIG, V1, V2, load, parts_of, random_codes, read, room, store


def unsaid(folder, modules):
    """A folder whose config.json says nothing of quantization."""
    return store(folder, modules, None)


@pytest.mark.parametrize(("key", "zeros"), [(V1, Zeros.V1), (V2, Zeros.V2)])
def test_without_a_configuration_balanced_weights_show_the_version(tmp_path, key, zeros):
    parts = {f"m.{n}.up_proj": parts_of(name, key) for n, name in enumerate(("gptq_4b_g32_asym_seq",) * 3)}
    checkpoint = read(unsaid(tmp_path, parts))
    assert {tensor.encoding.zeros for tensor in checkpoint.tensors} == {zeros}
    (notice,) = checkpoint.notices
    assert f"{zeros.value} by what all layers show; --gptq-format" in notice
    # a symmetric layer is as good as a signature
    parts["m.9.up_proj"] = parts_of("gptq_8b_g32_sym_seq", key)
    checkpoint = read(unsaid(tmp_path / "b", parts))
    assert {tensor.encoding.zeros for tensor in checkpoint.tensors} == {zeros}


@pytest.mark.parametrize("bits", [4, 8])
def test_what_the_data_cannot_show_is_said_and_left_to_the_user(tmp_path, bits):
    encoding = Gptq(bits, 32, False, Zeros.V2)
    parts = room(encoding, (64, 64))
    codes = random_codes(encoding, 64, 64, 5)
    codes.zeros[...] = 2  # weights that do not balance
    codec_for(encoding).pack(codes, parts)
    checkpoint = read(unsaid(tmp_path, {"m.up_proj": parts}))
    assert checkpoint.tensors[0].encoding == replace(encoding, zeros=Zeros.V1)
    (notice,) = checkpoint.notices
    assert "the numbers do not show it: read as less one" in notice
    assert "--gptq-format gptq_v2" in notice
    said = read_as(checkpoint, "gptq_v2")
    assert said.notices == ()
    assert said.tensors[0].encoding == encoding
    wanted = (codes.codes - codes.zeros.repeat(32, 1)) * codes.scales.repeat(32, 1)
    assert np.array_equal(values_of(said.tensors[0]), wanted.astype(np.float16).astype(np.float32))


def test_planes_of_three_bits_are_said_by_the_user(tmp_path):
    encoding = Gptq(3, 32, False, Zeros.V2, planar=True)
    parts = room(encoding, (64, 64))
    codec_for(encoding).pack(random_codes(encoding, 64, 64, 3), parts)
    checkpoint = read(unsaid(tmp_path, {"m.up_proj": parts}))
    assert any("gptq_p for codes in planes" in notice for notice in checkpoint.notices)
    assert read_as(checkpoint, "gptq_p").tensors[0].encoding == encoding
    symmetric = read(store(tmp_path / "s", {"m.up_proj": parts_of("gptq_4b_g32_sym_seq", V1)}, CONFIG))
    with pytest.raises(PlanError, match="no layer is GPTQ with zero points"):
        read_as(symmetric, "gptq_v2")


#: A configuration of auto-round's or GPTQModel's -> how zeros are written, by who wrote it.
CONVENTIONS = {
    **{f'{{"packing_format": "{form}"}}': Zeros.V2 for form in ("auto_round", "auto_round:gptqmodel")},
    '{"backend": "auto_round:exllamav2"}': Zeros.V2,
    '{"backend": "auto_round:tritonv2"}': Zeros.V2,
    '{"backend": "autoround:exllamav2"}': Zeros.V2,
    '{"packing_format": "auto_round:auto_gptq"}': Zeros.V1,
    '{"packing_format": "auto_round:auto_gptq", "backend": "auto_round:tritonv2"}': Zeros.V1,
    '{"packing_format": "auto_round:gptq"}': Zeros.V1,
    "{}": Zeros.V1,
}


@pytest.mark.parametrize("said", CONVENTIONS)
@pytest.mark.parametrize("name", ["gptq_4b_g32_asym_seq", "gptq_8b_g32_asym_act"])
def test_zeros_are_what_who_wrote_them_writes(tmp_path, said, name):
    config = {"quant_method": "auto-round", "bits": int(load(name)["bits"]), "group_size": 32, "sym": False}
    for stored in (V1, V2):  # whatever the numbers look like
        checkpoint = read(store(tmp_path / stored, {"m.up_proj": parts_of(name, stored)}, config | json.loads(said)))
        assert checkpoint.tensors[0].encoding.zeros is CONVENTIONS[said]
        assert checkpoint.notices == ()
