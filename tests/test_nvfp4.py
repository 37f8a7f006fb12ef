"""NVFP4 between Hugging Face folders and GGUF files: the scale of the whole tensor becomes one beside the weight."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from requant.cli.main import cli
from requant.codecs import codec_for
from requant.companions import applies, folded
from requant.encodings import BLOCKS, F32
from requant.encodings.companions import Companioned
from requant.encodings.exactness import keeps_codes
from requant.encodings.scaled import NVFP4, Scaled
from requant.encodings.small_floats import takes
from requant.errors import PlanError, UnsupportedError
from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.ir import Checkpoint, Naming, Tensor
from requant.losses import LossKind
from requant.operations.convert import Request, plan_conversion
from requant.operations.requantize import Request as Requantize
from requant.operations.requantize import plan_requantization
from requant.plan import Fidelity
from requant.sources import Memory
from requant.verify.llama_cpp import LlamaCpp
from tests import tiny_models
from tests.test_scaled import MODELOPT_NVFP4, encoded, load
from tests.tiny_models import VOCABULARY, make

BLOCK = BLOCKS["NVFP4"]
TEXT = np.random.default_rng(3).integers(3, VOCABULARY, 24).tolist()
SIZES = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}


def model(folder, family="llama", **changes):
    """A tiny random model whose rows are whole blocks."""
    classes = tiny_models.MODELS[family][:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.MODELS, "nvfp4", (*classes, {**SIZES, **changes}))
        make("nvfp4", folder)
    return folder


def convert(source, destination, recipe):
    """A conversion, and its plan."""
    target = FORMATS["gguf" if destination.suffix == ".gguf" else "safetensors"]
    request = Request(recipe, vocabulary=False)
    plan = plan_conversion(detect(source).read(source), target, destination, request)
    execute(plan, Options(workers=2))
    return plan


def requantize(source, destination, recipe):
    """As llama-quantize does it, and its plan."""
    plan = plan_requantization(detect(source).read(source), FORMATS["gguf"], destination, Requantize(recipe))
    execute(plan, Options(workers=2))
    return plan


def as_modelopt(source, folder, head=False):
    """A folder of compressed-tensors under ModelOpt's names, with scales that are no inverses of anything."""
    folder.mkdir()
    rng, arrays = np.random.default_rng(5), {}
    for name, array in load_file(source / "model.safetensors").items():
        module, _, kind = name.rpartition(".")
        match kind:
            case "weight_packed":
                arrays[f"{module}.weight"] = array
            case "weight_global_scale":
                arrays[f"{module}.weight_scale_2"] = (rng.uniform(0.9, 1.1) / array).reshape(())
                arrays[f"{module}.input_scale"] = torch.tensor(rng.uniform(0.1, 1), dtype=torch.float32)
            case _ if head and name == "lm_head.weight":
                parts = encoded(MODELOPT_NVFP4, array.float().numpy())
                arrays["lm_head.weight"] = torch.from_numpy(parts["data"])
                arrays["lm_head.weight_scale"] = torch.from_numpy(parts["scales"]).view(torch.float8_e4m3fn)
                arrays["lm_head.weight_scale_2"] = torch.from_numpy(parts["whole"])
            case _:
                arrays[name] = array
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def values(path):
    """Every tensor of a checkpoint as float32; those of a GGUF times their companions."""
    return {
        tensor.name: decoded(tensor)
        for tensor in folded(detect(path).read(path))[0].tensors
        if not tensor.name.endswith(("input_scale", "rope_freqs.weight"))
    }


def decoded(tensor, start=0):
    """One tensor, from a row on."""
    parts = {
        name: np.frombuffer(bytes(stored(tensor.sources[name])), np.uint8).view(part.dtype.numpy).reshape(part.shape)
        for name, part in tensor.parts.items()
    }
    rows = int(np.prod(tensor.shape[:-1]))
    if tensor.encoding.sliced:
        parts = {name: part.reshape(rows, -1)[start:] for name, part in parts.items()}
    out = np.empty((rows - start, tensor.shape[-1]), np.float32)
    codec_for(tensor.encoding).decode(parts, out, 0 if tensor.encoding.sliced else start)
    return out


def alike(ours, theirs):
    """Whether logits differ by no more than products with activations of 8 bits do: a forgotten scale is far off."""
    return np.abs(ours - theirs).max() < 0.05 * np.ptp(theirs)


def stored(source):
    out = np.empty(source.nbytes, np.uint8)
    source.read_into(0, out)
    return out


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same llama as compressed-tensors and as ModelOpt have it, and the GGUF of each."""
    root = tmp_path_factory.mktemp("nvfp4")
    convert(model(root / "f32"), root / "ct", "NVFP4")
    as_modelopt(root / "ct", root / "modelopt")
    plans = {kind: convert(root / kind, root / f"{kind}.gguf", None) for kind in ("ct", "modelopt")}
    return root, plans


# codes, scales, and the one scale of all


def test_blocks_with_a_companion_decode_as_modelopt_does():
    """Bit for bit, from any row: scales are multiplied with each other first."""
    golden = load("modelopt_nvfp4")
    wanted = golden["dequant"]
    alone = replace(MODELOPT_NVFP4, whole="")
    parts = {
        "data": golden["weight"],
        "scales": golden["weight_scale_e4m3_u8"].reshape(alone.parts(wanted.shape)["scales"].shape),
    }
    codes = codec_for(alone).unpack(parts, len(wanted))
    blocks = np.zeros(BLOCK.parts(wanted.shape)["data"].shape, np.uint8)
    codec_for(BLOCK).pack(codes, {"data": blocks})
    encoding = Companioned(BLOCK)
    companioned = {"data": blocks, "whole": golden["weight_scale_2"].reshape(1)}
    for start in (0, 1, 5):
        out = np.empty((len(wanted) - start, wanted.shape[1]), np.float32)
        codec_for(encoding).decode(companioned, out, start)
        assert np.array_equal(out, wanted[start:])
    # and back, as compressed-tensors stores it: only the inverse of one number is rounded
    again = {name: np.zeros(part.shape, part.dtype.numpy) for name, part in NVFP4.parts(wanted.shape).items()}
    codec_for(NVFP4).pack(codec_for(encoding).unpack(companioned, len(wanted)), again)
    assert np.array_equal(again["data"], golden["weight"])
    assert np.array_equal(again["scales"].reshape(-1), parts["scales"].reshape(-1))
    assert again["whole"] == np.float32(1) / golden["weight_scale_2"].reshape(1)


def test_the_inverse_of_an_inverse_is_the_same_number():
    parts = {name: np.zeros(part.shape, part.dtype.numpy) for name, part in NVFP4.parts((1, 64)).items()}
    codec, again = codec_for(NVFP4), {name: np.zeros_like(part) for name, part in parts.items()}
    for whole in np.random.default_rng(0).uniform(1, 1e6, 500).astype(np.float32):
        parts["whole"][...] = whole
        codec.pack(codec.unpack(parts, 1), again)
        assert again["whole"] == whole


def test_scales_mean_what_they_mean_to_ggml():
    """Bytes 0x7F and 0x80 are zero, the sign counts for nothing, and 0xFF is a number that nothing else has."""
    codec, wide = codec_for(BLOCK), np.empty((1, 64), np.float32)
    block = np.full((1, 1, 36), 0x71, np.uint8)
    for byte in range(255):
        block[..., :4] = byte
        codes = codec.unpack({"data": block}, 1)
        codec.decode({"data": block.reshape(-1)}, wide)
        assert codes.scales[0, 0] == wide[0, 0] * 2, byte  # 0x71: the first code of a pair is 1/2, the other 6
        assert codes.scales[0, 0] * 6 == wide[0, 8]
        again = np.zeros_like(block)
        codec.pack(codes, {"data": again})
        assert again[0, 0, 0] == (0 if byte == 127 else byte & 127)
    block[..., :4] = 255
    with pytest.raises(UnsupportedError, match="0xFF"):
        codec.unpack({"data": block}, 1)
    codes.scales[0, 0] = np.nan
    with pytest.raises(UnsupportedError, match="no numbers"):
        codec.pack(codes, {"data": block})


def test_who_takes_whose_scale():
    alone, with_companion = replace(NVFP4, whole=""), Companioned(BLOCK)
    assert takes(alone, BLOCK)
    assert takes(alone, NVFP4)
    assert takes(BLOCK, NVFP4)
    assert takes(MODELOPT_NVFP4, MODELOPT_NVFP4)
    for source in (NVFP4, MODELOPT_NVFP4, with_companion):
        assert not takes(source, BLOCK)
        assert not keeps_codes(source, BLOCK)
    assert not takes(with_companion, NVFP4)
    assert keeps_codes(with_companion, NVFP4)
    assert keeps_codes(MODELOPT_NVFP4, NVFP4)
    assert not keeps_codes(MODELOPT_NVFP4, Scaled("packed", "F4", 1, 32, "U8"))


# folder to GGUF


def test_a_folder_becomes_a_gguf_without_rounding(folders):
    root, plans = folders
    numbers = {kind: load_file(root / kind / "model.safetensors") for kind in plans}
    for kind, plan in plans.items():
        layers = [step for step in plan.steps if step.target.encoding == BLOCK]
        scales = {step.target.name: step for step in plan.steps if step.target.name.endswith(".scale")}
        assert len(layers) == len(scales) == 14
        for step in layers:
            assert step.fidelity is Fidelity.REPACK
            scale = scales[step.target.name.replace(".weight", ".scale")]
            assert (scale.target.shape, scale.target.encoding) == ((1,), F32)
            (name,) = scale.to_json()["from"]
            inverse = 1 / numbers[kind][name].double().numpy()
            exact = kind == "modelopt" or np.float32(inverse) == inverse  # that of a power of two, say
            assert scale.fidelity is (Fidelity.COPY if exact else Fidelity.ROUND)
        assert (Fidelity.COPY if kind == "modelopt" else Fidelity.ROUND) in {step.fidelity for step in scales.values()}
        assert plan.losses == ()


def test_decoding_the_gguf_gives_the_folder_s_values(folders, tmp_path):
    root, _ = folders
    for kind in ("ct", "modelopt"):
        convert(root / f"{kind}.gguf", tmp_path / kind, "F32")
        wanted, found = values(root / kind), values(tmp_path / kind)
        for name, array in found.items():
            if kind == "modelopt":
                assert np.array_equal(array, wanted[name]), name
            else:  # two roundings of an inverse
                assert np.allclose(array, wanted[name], rtol=3e-7, atol=0), name


def test_scales_of_activations_are_carried(folders):
    root, _ = folders
    arrays = {tensor.name: tensor for tensor in detect(root / "modelopt.gguf").read(root / "modelopt.gguf").tensors}
    stored_scale = load_file(root / "modelopt" / "model.safetensors")["model.layers.1.mlp.down_proj.input_scale"]
    assert decoded(arrays["blk.1.ffn_down.input_scale"]) == stored_scale.numpy()


def test_llama_cpp_multiplies_by_the_scales(folders, tmp_path):
    """The GGUF computes what its values in F32 do."""
    root, _ = folders
    for kind in ("ct", "modelopt"):
        convert(root / kind, tmp_path / f"{kind}.gguf", "F32")
        logits = []
        for path in (root / f"{kind}.gguf", tmp_path / f"{kind}.gguf"):
            with LlamaCpp(path, n_ctx=64, precise=True) as runtime:
                logits.append(runtime.logits(TEXT))
        assert alike(*logits)


def test_experts_have_a_scale_each(tmp_path):
    changes = {"num_local_experts": 4, "num_experts_per_tok": 2}
    convert(model(tmp_path / "f32", "mixtral", **changes), tmp_path / "ct", "NVFP4")
    as_modelopt(tmp_path / "ct", tmp_path / "modelopt")
    plan = convert(tmp_path / "modelopt", tmp_path / "m.gguf", None)
    steps = {step.target.name: step for step in plan.steps}
    assert steps["blk.0.ffn_up_exps.scale"].target.shape == (4,)
    assert steps["blk.0.ffn_up_exps.weight"].fidelity is Fidelity.REPACK
    assert [loss for loss in plan.losses if "expert" in loss.subject] == []
    back = convert(tmp_path / "m.gguf", tmp_path / "back", "F32")
    wanted, found = values(tmp_path / "modelopt"), values(tmp_path / "back")
    assert all(np.array_equal(array, wanted[name]) for name, array in found.items())
    experts = [step for step in back.steps if ".experts." in step.target.name]
    assert experts
    assert all(step.inputs[0].shape == step.target.shape for step in experts)  # no stack is read per expert
    convert(tmp_path / "modelopt", tmp_path / "f32.gguf", "F32")
    logits = []
    for name in ("m.gguf", "f32.gguf"):
        with LlamaCpp(tmp_path / name, n_ctx=64, precise=True) as runtime:
            logits.append(runtime.logits(TEXT[:8]))
    assert alike(*logits)


@pytest.mark.parametrize(
    ("family", "changes", "without"),
    [
        ("qwen2", {}, "ffn_down"),
        ("llama", {"mlp_bias": True}, "ffn_up"),
        ("gemma3", {"query_pre_attn_scalar": 32}, "ffn_gate"),
    ],
)
def test_where_llama_cpp_heeds_no_scale_weights_are_rounded_and_told(tmp_path, family, changes, without):
    convert(model(tmp_path / "f32", family, num_hidden_layers=1, **changes), tmp_path / "ct", "NVFP4")
    plan = convert(tmp_path / "ct", tmp_path / "m.gguf", "NVFP4")
    steps = {step.target.name: step for step in plan.steps}
    assert steps["blk.0.attn_q.weight"].fidelity is Fidelity.REPACK
    assert "blk.0.attn_q.scale" in steps
    assert f"blk.0.{without}.scale" not in steps
    (loss,) = [loss for loss in plan.losses if loss.subject == f"blk.0.{without}.weight"]
    assert loss.kind is LossKind.REQUANTIZED
    assert "no place for a scale of this whole tensor" in loss.detail
    # unless a type is asked for: then values are kept
    kept = {step.target.name: step for step in convert(tmp_path / "ct", tmp_path / "kept.gguf", None).steps}
    assert kept[f"blk.0.{without}.weight"].target.encoding == F32
    assert kept["blk.0.attn_q.weight"].target.encoding == BLOCK


def test_where_scales_are_applied():
    assert applies("llama", "blk.3.ffn_up_exps.weight", ())
    assert applies("qwen3", "output.weight", ())
    assert not applies("llama", "token_embd.weight", ())
    assert not applies("llama", "blk.0.attn_q_norm.weight", ())
    assert not applies("bert", "output.weight", ())
    assert not applies("unheard-of", "blk.0.attn_q.weight", ())
    assert not applies("llama", "blk.0.ffn_up.weight", {"blk.0.ffn_up.bias"})


@pytest.mark.parametrize("number", [0.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_an_error_while_planning(folders, tmp_path, number):
    root, _ = folders
    folder = as_modelopt(root / "ct", tmp_path / "broken")
    arrays = load_file(folder / "model.safetensors")
    arrays["model.layers.0.mlp.up_proj.weight_scale_2"] = torch.tensor(number)
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(PlanError, match=r"up_proj.weight_scale_2' is (0|nan|inf)"):
        convert(folder, tmp_path / "m.gguf", None)


# GGUF to anything


def test_a_gguf_becomes_a_folder_that_keeps_codes(folders, tmp_path):
    root, _ = folders
    plan = convert(root / "ct.gguf", tmp_path / "ct", "NVFP4")
    layers = [step for step in plan.steps if step.target.encoding == NVFP4]
    assert len(layers) == 14
    assert all(step.keeps_codes for step in layers)
    assert all("codes and scales kept, the whole tensor's" in loss.detail for loss in plan.losses)
    shown = CliRunner().invoke(
        cli, ["convert", str(root / "ct.gguf"), str(tmp_path / "no"), "--to", "NVFP4", "--dry-run", "--tensors"]
    )
    assert shown.output.count("round scale  NVFP4*scale") == 14
    before, after = (load_file(folder / "model.safetensors") for folder in (root / "ct", tmp_path / "ct"))
    for name, array in after.items():
        if name.endswith("global_scale"):
            assert np.allclose(array.numpy(), before[name].numpy(), rtol=2e-7)
        else:
            assert torch.equal(array.view(torch.uint8), before[name].to(array.dtype).view(torch.uint8)), name


def test_requantizing_keeps_companions_as_llama_quantize_does(folders, tmp_path):
    """llama.cpp multiplies by them whatever the type of the weight is."""
    root, _ = folders
    plan = requantize(root / "modelopt.gguf", tmp_path / "q.gguf", "Q8_0")
    names = {step.target.name: step for step in plan.steps}
    assert names["blk.0.ffn_up.scale"].fidelity is Fidelity.COPY
    assert names["blk.0.ffn_up.weight"].target.encoding == BLOCKS["Q8_0"]
    logits = []
    for path in (root / "modelopt.gguf", tmp_path / "q.gguf"):
        with LlamaCpp(path, n_ctx=64, precise=True) as runtime:
            logits.append(runtime.logits(TEXT))
    assert alike(*logits)
    # folders get the product
    convert(tmp_path / "q.gguf", tmp_path / "hf", "F32")
    wanted, found = values(root / "modelopt"), values(tmp_path / "hf")
    for name, array in found.items():
        assert np.abs(array - wanted[name]).max() <= 0.02 * np.abs(wanted[name]).max(), name


def test_the_scale_of_an_output_that_is_nvfp4_no_more_is_multiplied_in(folders, tmp_path):
    root, _ = folders
    convert(as_modelopt(root / "ct", tmp_path / "head", head=True), tmp_path / "head.gguf", None)
    assert "output.scale" in {
        tensor.name for tensor in detect(tmp_path / "head.gguf").read(tmp_path / "head.gguf").tensors
    }
    plans = [
        requantize(tmp_path / "head.gguf", tmp_path / "q.gguf", "Q8_0"),
        convert(tmp_path / "head.gguf", tmp_path / "c.gguf", "Q8_0"),
    ]
    logits = []
    for name in ("head", "q", "c"):
        with LlamaCpp(tmp_path / f"{name}.gguf", n_ctx=64, precise=True) as runtime:
            logits.append(runtime.logits(TEXT))
    for plan, found in zip(plans, logits[1:], strict=True):
        assert "output.scale" not in {step.target.name for step in plan.steps}
        (loss,) = [loss for loss in plan.losses if loss.subject == "output.scale"]
        assert (loss.kind, "multiplied into output.weight" in loss.detail) == (LossKind.TENSOR_DROPPED, True)
        assert alike(logits[0], found)


def test_companions_that_cannot_be_meant(folders, tmp_path):
    def gguf(scale, shape=(1,), encoding=F32):
        weight = Tensor("blk.0.attn_q.weight", (4, 64), BLOCK, {"data": Memory(bytes(4 * 36))})
        beside = Tensor(scale, shape, encoding, {"data": Memory(bytes(4 * int(np.prod(shape))))})
        return Checkpoint(Naming.GGML, "llama", (weight, beside))

    with pytest.raises(PlanError, match=r"attn_q.scale' is F32\[2\]"):
        folded(gguf("blk.0.attn_q.scale", (2,)))
    (weight, beside), losses = folded(gguf("token_embd.scale"))[0].tensors, folded(gguf("token_embd.scale"))[1]
    assert (weight.encoding, beside.name, losses) == (BLOCK, "token_embd.scale", ())  # unknown, and refused as such
    checkpoint, (loss,) = folded(gguf("blk.0.attn_q.input_scale"))
    assert (len(checkpoint.tensors), loss.kind) == (1, LossKind.TENSOR_DROPPED)
    source = detect(folders[0] / "ct.gguf").read(folders[0] / "ct.gguf")
    strange = replace(source.tensors[0], name="token_embd.scale")
    with pytest.raises(PlanError, match=r"'token_embd.scale' does not belong"):
        plan_conversion(
            replace(source, tensors=(*source.tensors, strange)), FORMATS["safetensors"], tmp_path / "m", Request()
        )
