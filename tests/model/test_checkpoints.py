"""Loading and saving: the Hub's layouts, dtypes, memory, and every way in which a checkpoint can be bad."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import hf_model, save_checkpoint
from transformers import AutoModelForCausalLM

import iclnb
from iclnb.model.checkpoints import CheckpointError, load, save
from iclnb.model.gpt import GPT, GPTConfig


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path)
    return tmp_path


def test_a_fairseq_folder_gives_model_and_tokenizer(checkpoint):
    model, tokenizer = load(checkpoint, device="cpu", dtype="float32")
    text = "Sentence: a warm film — déjà vu Label:"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert max(ids) < model.config.vocab_size
    assert not model.training and next(model.parameters()).dtype == torch.float32


def test_fairseq_vocabularies_have_their_own_special_ids(tmp_path):
    hf_model("xglm", layers=1, width=8, heads=2, vocab=50261, bos_token_id=0, eos_token_id=2).save_pretrained(tmp_path)
    config = iclnb.model.checkpoints.load_model(tmp_path, torch.device("cpu"), torch.float32).config
    assert (config.bos_token_id, config.eos_token_id) == (50257, 50259)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_half_precision_files_are_read_into_any_dtype(dtype, tmp_path):
    hf = save_checkpoint(tmp_path)
    hf.half().save_pretrained(tmp_path)
    model, _ = load(tmp_path, device="cpu", dtype=dtype)
    target = getattr(torch, dtype)
    assert {p.dtype for p in model.parameters()} == {target}
    assert torch.equal(model.embed_tokens.weight, hf.model.embed_tokens.weight.to(target))


@pytest.mark.parametrize("dtype", ["float16", torch.bfloat16, "float32", "auto"])
@pytest.mark.parametrize("fast", [False, True])
def test_a_16_bit_dtype_that_the_cpu_emulates_is_said_once(dtype, fast, checkpoint, monkeypatch):
    for kind in ("bf16", "fp16"):
        monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported", lambda: fast)
    monkeypatch.setattr(iclnb.model.checkpoints, "__warningregistry__", {}, raising=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")  # as a user has it
        for _ in range(2):
            load(checkpoint, device="cpu", dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    expected = f"dtype is {name}, which this CPU only emulates; float32 is many times faster"
    assert [str(w.message) for w in said] == [expected] * (not fast and "16" in name)


LLAMA = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "bias": False, "n_kv_head": 2, "d_ff": 80}
SAVED = {
    "xglm": {"positions": "sinusoidal"},
    "gpt2": {"positions": "learned"},
    "gpt_neox": {"positions": "rotary"},
    "llama": LLAMA | {"qkv_bias": False},
    "qwen2": LLAMA | {"qkv_bias": True, "tie_embeddings": False},
    "qwen3": LLAMA | {"qkv_bias": False, "qk_norm": "head", "d_head": 12},
    "smollm3": LLAMA | {"qkv_bias": False, "rotary_layers": (False, True)},
    "olmo2": LLAMA | {"qkv_bias": False, "qk_norm": "all", "norm_after": True, "tie_embeddings": False},
}


@pytest.mark.parametrize("model_type", SAVED)
def test_what_is_saved_transformers_loads(model_type, tmp_path):
    config = GPTConfig(vocab_size=60, n_layer=2, n_head=4, n_embd=32, eos_token_id=1, **SAVED[model_type])
    model = GPT(config).initialise(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))  # no bias stays zero, no norm one
    save(model, None, tmp_path)
    ids = torch.randint(0, 60, (2, 30))
    with torch.no_grad():
        hf = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        assert hf.config.model_type == model_type
        torch.testing.assert_close(hf(ids).logits, model(ids), rtol=1e-5, atol=1e-5)
    again = iclnb.model.checkpoints.load_model(tmp_path, torch.device("cpu"), torch.float32)
    assert again.config == replace(config, d_ff=config.d_ff or (None if model_type == "gpt2" else 128))
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), model.parameters(), strict=True))


def test_a_mixture_that_no_architecture_has_is_not_saved(tmp_path):
    model = GPT(GPTConfig(vocab_size=9, n_layer=1, n_head=2, n_embd=8, positions="learned", norm="rms"))
    with pytest.raises(ValueError, match="no layout of .*llama.* holds .*norm='rms'"):
        save(model, None, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_files_of_gpt2_without_the_prefix_are_read_too(tmp_path):
    hf = save_checkpoint(tmp_path, "gpt2")
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(tmp_path / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 256, 256)  # the mask that old files carry
    save_file(tensors, tmp_path / "model.safetensors")
    ids = torch.randint(0, 400, (1, 20))
    with torch.no_grad():
        torch.testing.assert_close(
            load(tmp_path, device="cpu", dtype="float32")[0](ids), hf(ids).logits, rtol=1e-5, atol=1e-5
        )


def edit_config(folder, **entries):
    config = json.loads((folder / "config.json").read_text()) | entries
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def truncate(folder, name="model.safetensors", keep=0.5):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(keep * len(data))])


def drop_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.fc1.bias"]
    save_file(tensors, folder / "model.safetensors")


def add_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"model.layers.0.extra.weight": torch.zeros(1)}, folder / "model.safetensors")


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lose_shard(folder):
    hf_model("xglm").save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    next(folder.glob("model-00002-*")).unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "config.json").unlink(), "holds no config.json"),
        (lambda f: truncate(f, "config.json"), "config.json is not JSON"),
        (
            lambda f: edit_config(f, model_type="bert"),
            "model_type is 'bert'; supported are xglm, gpt2, gpt_neox, llama, qwen2",
        ),
        (lambda f: edit_config(f, num_layers=None), "lacks the entry 'num_layers'"),
        (lambda f: edit_config(f, activation_function="swish"), "activation_function is 'swish'"),
        (lambda f: edit_config(f, ffn_dim=64), "gives .* where config.json says"),
        (truncate, "corrupt or truncated"),
        (lambda f: truncate(f, keep=0), "corrupt or truncated"),
        (drop_tensor, "lacks the tensor model.layers.1.fc1.bias"),
        (add_tensor, "holds the tensor model.layers.0.extra.weight"),
        (pickle_only, "holds no model.safetensors"),
        (lose_shard, "lacks the shard model-00002"),
        (lambda f: [(f / name).unlink() for name in ("vocab.json", "merges.txt")], "no tokenizer"),
    ],
)
def test_bad_checkpoints_are_refused_in_one_sentence(damage, message, checkpoint):
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        load(checkpoint)


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "lacks the entry 'factor'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters is .* for all layers"),
        ({"sliding_window": 64}, "sliding_window is 64; supported is None"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config is {'quant_method': 'fp8'}; supported"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2}}, "rope_type is 'linear'"),
        ({"attention_bias": True}, "attention_bias is True; supported is False"),
        ({"head_dim": 16}, r"q_proj.weight in .* gives \(32, 32\) where config.json says \(64, 32\)"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rms_norm_eps": None}, "lacks the entry 'rms_norm_eps'"),
    ],
)
def test_llama_variants_that_are_not_supported_are_refused(entries, message, tmp_path):
    save_checkpoint(tmp_path, "llama")
    edit_config(tmp_path, **entries)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_pocket_gpt_is_float64_on_the_cpu_even_beside_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # with no GPU behind it: to use it would raise
    for asked, dtype in ("auto", torch.float64), ("float32", torch.float32), (torch.bfloat16, torch.bfloat16):
        weight = load("pocket-gpt", dtype=asked)[0].embed_tokens.weight
        assert (weight.device.type, weight.dtype) == ("cpu", dtype)


def test_auto_is_the_environments_model(checkpoint, monkeypatch):
    monkeypatch.setenv("ICLNB_MODEL", str(checkpoint))
    assert load()[0].config.vocab_size == 400


@pytest.mark.parametrize("name", ["pocket-gtp", "./nowhere", "a/b/c"])
def test_unknown_models_are_refused(name):
    with pytest.raises(CheckpointError, match="known are pocket-gpt, smollm2, fairseq-dense-125M"):
        load(name)


def test_without_a_network_the_error_says_what_to_fetch():
    with pytest.raises(CheckpointError, match="config.json, .*safetensors.* of KoboldAI/fairseq-dense-125M"):
        load("fairseq-dense-125M")


@pytest.mark.parametrize(
    "option, message", [({"dtype": "int8"}, "dtype is 'int8'"), ({"device": "gpu"}, "device is 'gpu'")]
)
def test_unknown_devices_and_dtypes_are_refused(option, message, checkpoint):
    with pytest.raises(ValueError, match=message):
        load(checkpoint, **option)


PEAK = """
import sys, torch
from pathlib import Path
from iclnb.model.checkpoints import load_model

def memory(entry):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(entry)).split()[1])

small, large, dtype = Path(sys.argv[1]), Path(sys.argv[2]), getattr(torch, sys.argv[3])
load_model(small, torch.device("cpu"), dtype)  # all code is loaded now
before = memory("VmRSS")
model = load_model(large, torch.device("cpu"), dtype)
for p in model.parameters():
    p.sum()  # what is only mapped counts too
print((memory("VmHWM") - before) / sum(p.numel() * p.element_size() for p in model.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from Linux's /proc")
def test_loading_takes_the_models_own_memory_and_no_second_copy(checkpoint, tmp_path):
    hf_model("xglm", layers=6, width=1024, heads=8).half().save_pretrained(tmp_path / "large", max_shard_size="80MB")
    command = [sys.executable, "-c", PEAK, str(checkpoint), str(tmp_path / "large"), "float32"]  # converted on the way
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.1
