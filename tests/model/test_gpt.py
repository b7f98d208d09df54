"""The GPT against transformers' models, and against itself with a prefix."""

from contextlib import nullcontext

import pytest
import torch
from toys import hf_model, save_checkpoint
from transformers import AutoModelForCausalLM
from transformers.models.xglm.modeling_xglm import XGLMSinusoidalPositionalEmbedding

from iclnb.model.checkpoints import load, load_model, save
from iclnb.model.gpt import GPT, GPTConfig
from iclnb.model.positions import RotaryScaling, rotary_angles, sinusoidal_positions
from iclnb.model.recorder import Recorder

CPU = torch.device("cpu")
SHAPES = [dict(layers=1, width=32, heads=2), dict(layers=3, width=48, heads=6), dict(layers=2, width=96, heads=4)]
SLOW = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SLOW |= {"original_max_position_embeddings": 32, "rope_theta": 500.0}
KINDS = {
    "xglm": {},
    "xglm-unscaled": {"scale_embedding": False},
    "gpt2": {},
    "gpt2-exact-gelu": {"activation_function": "gelu"},
    "gpt_neox": {"use_parallel_residual": False, "rotary_pct": 1.0, "tie_word_embeddings": True},
    "gpt_neox-pythia": {"use_parallel_residual": True, "rotary_pct": 0.25, "tie_word_embeddings": False},
    "llama": {"tie_word_embeddings": False},
    "llama-grouped": {"heads_a_key": 2, "tie_word_embeddings": True, "rope_parameters": {"rope_theta": 500.0}},
    "qwen2": {"tie_word_embeddings": True, "rms_norm_eps": 1e-6},
    "llama-wide": {"heads_a_key": 2, "head_dim": 32},
    "llama-slow": {"rope_parameters": SLOW, "positions": 512},
    "gpt_neox-slow": {"rope_parameters": SLOW | {"partial_rotary_factor": 0.5}, "rope_scaling": SLOW, "positions": 512},
    "qwen2-grouped": {"heads_a_key": 2, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
    "qwen3": {"head_dim": 24, "heads_a_key": 2, "tie_word_embeddings": True},
    "qwen3-narrow": {"head_dim": 2},
    "smollm3": {"heads_a_key": 2, "no_rope_layers": [1, 0, 1], "rope_parameters": {"rope_theta": 5e6}},
    "smollm3-interval": {"no_rope_layer_interval": 2, "tie_word_embeddings": False},
    "olmo2": {"heads_a_key": 2},
    "olmo2-tied": {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 5e5}},
}
NEW = [kind for kind in KINDS if kind.startswith(("qwen3", "smollm3", "olmo2", "llama-"))]


def ours(hf, folder, **save):
    hf.save_pretrained(folder, **save)
    return load_model(folder, CPU, torch.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_transformers(kind, shape, tmp_path):
    hf = hf_model(kind.split("-")[0], **shape, **KINDS[kind])
    ids = torch.randint(0, 400, (3, 40))
    with torch.no_grad():
        torch.testing.assert_close(ours(hf, tmp_path)(ids), hf(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", NEW)
def test_logits_behind_a_prefix_equal_transformers(kind, tmp_path):
    hf = hf_model(kind.split("-")[0], layers=3, **KINDS[kind])
    prefix, ids = torch.randint(0, 400, (1, 60)), torch.randint(0, 400, (3, 20))
    model = ours(hf, tmp_path)
    with torch.no_grad():
        expected = hf(torch.cat([prefix.expand(3, -1), ids], dim=1)).logits[:, 60:]
        torch.testing.assert_close(model(ids, model.encode_prefix(prefix)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", NEW)
def test_what_is_saved_of_what_was_loaded_transformers_loads_again(kind, tmp_path):
    hf = hf_model(kind.split("-")[0], layers=3, **KINDS[kind])
    model = ours(hf, tmp_path / "theirs")
    save(model, None, tmp_path / "ours")
    again, ids = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval(), torch.randint(0, 400, (2, 70))
    assert again.config.model_type == hf.config.model_type
    assert load_model(tmp_path / "ours", CPU, torch.float32).config == model.config
    assert all(map(torch.equal, again.state_dict().values(), hf.state_dict().values()))
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, hf(ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["xglm", "gpt2"])
def test_logits_equal_transformers_at_the_125M_shape_from_shards(kind, tmp_path):
    hf = hf_model(kind, layers=12, width=768, heads=12, vocab=50261, positions=2048)
    model = ours(hf, tmp_path, max_shard_size="150MB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    ids = torch.randint(0, 50261, (1, 24))
    with torch.no_grad():
        expected = hf(ids).logits
        assert (model(ids) - expected).abs().max() / expected.abs().max() < 1e-5


VARIANTS = {
    "sinusoidal": {"positions": "sinusoidal"},
    "learned": {"positions": "learned"},
    "rotary": {"positions": "rotary"},
    "grouped": {"positions": "rotary", "n_kv_head": 2},
    "qwen3": {"positions": "rotary", "n_kv_head": 2, "norm": "rms", "d_head": 6, "qk_norm": "head"},
    "smollm3": {"positions": "rotary", "rotary_layers": (True, False)},
    "olmo2": {"positions": "rotary", "norm": "rms", "norm_after": True, "qk_norm": "all"},
    "slow": {"positions": "rotary", "rotary_scaling": RotaryScaling(8.0, 1.0, 4.0, 8)},
}


@pytest.mark.parametrize("momentum", [None, 0.5])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_prefix_changes_nothing_but_the_work(variant, momentum):
    config = GPTConfig(vocab_size=50, n_layer=2, n_head=4, n_embd=16, momentum=momentum, **VARIANTS[variant])
    model = GPT(config).initialise(0).double()
    prefix, ids = torch.randint(0, 50, (1, 11)), torch.randint(0, 50, (4, 6))
    whole = model(torch.cat([prefix.expand(4, -1), ids], dim=1))[:, 11:]
    # rotary angles and position tables are float32, whatever the model's dtype
    torch.testing.assert_close(model(ids, model.encode_prefix(prefix)), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_of_16_bit_models_are_not_rounded(dtype):
    """The output projection alone, against float64: float32 digits although both factors have 16 bits."""
    model = GPT(GPTConfig(vocab_size=5000, n_layer=1, n_head=2, n_embd=64)).initialise(0).to(dtype)
    hidden = (5000 * torch.randn(3, 7, 64)).to(dtype)
    with torch.no_grad():
        model.lm_head.weight.mul_(50)
        logits = model.logits(hidden)
        expected = hidden.double() @ model.lm_head.weight.double().T
    assert expected.abs().max() > torch.finfo(torch.float16).max
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    assert (logits.double() - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_wide_where_a_training_asks_for_16_bit_products(dtype):
    model = GPT(GPTConfig(vocab_size=50, n_layer=1, n_head=2, n_embd=16)).initialise(0).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.randint(0, 50, (2, 5))).dtype == torch.float32


@pytest.mark.parametrize("kind", [{}, {"positions": "learned"}, {"positions": "rotary", "momentum": 0.5}])
def test_a_forward_pass_reads_nothing_back_from_its_device(kind, monkeypatch):
    """A GPU would be waited for; from the meta device, which stands for it, nothing can be read at all."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())  # which meta does not know
    model = GPT(GPTConfig(vocab_size=50, n_layer=2, n_head=2, n_embd=16, n_positions=8, **kind)).to("meta")
    ids, places = torch.zeros(2, 5, dtype=torch.long, device="meta"), torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, 5, 6]])
    assert model(ids).shape == model(ids, positions=places).shape == (2, 5, 50)
    assert model(ids[:, :2], model.encode_prefix(ids[:1])).shape == (2, 2, 50)
    with pytest.raises(ValueError, match="9 tokens does not fit the model's 8 positions"):
        model(ids, positions=places + 2)


@pytest.mark.parametrize("width", [4, 6, 7, 48])
def test_sinusoidal_positions_equal_transformers(width):
    expected = XGLMSinusoidalPositionalEmbedding.get_embedding(12, width)[2:]  # fairseq's offset
    torch.testing.assert_close(sinusoidal_positions(torch.arange(10), width), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("width", [2, 3])
def test_the_narrowest_sinusoidal_positions_have_one_rate(width):
    angles = torch.arange(2.0, 12.0)
    expected = torch.stack([angles.sin(), angles.cos(), torch.zeros(10)], dim=-1)[:, :width]
    torch.testing.assert_close(sinusoidal_positions(torch.arange(10), width), expected)


def test_rotary_positions_turn_pairs():
    with pytest.raises(ValueError, match="width is 3; rotary positions turn pairs"):
        rotary_angles(torch.arange(5), 3, 10000.0)
    with pytest.raises(ValueError, match="rotary_fraction is 0.25; it turns 3 of the 12 numbers of a head"):
        GPTConfig(vocab_size=9, n_layer=1, n_head=2, n_embd=24, positions="rotary", rotary_fraction=0.25)


def test_computing_blocks_again_changes_neither_loss_nor_gradients():
    model = GPT(GPTConfig(vocab_size=50, n_layer=3, n_head=2, n_embd=16)).initialise(0).double()
    ids, found = torch.randint(0, 50, (1, 9)), []
    for recompute in (False, True):
        loss = model(ids, recompute=recompute).logsumexp(-1).sum()
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(kept, again, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def greedy(logits_of, ids, steps):
    for _ in range(steps):
        ids = torch.cat([ids, logits_of(ids)[:, -1:].argmax(-1)], dim=1)
    return ids


def test_a_real_llama_continues_a_story_as_transformers_does(iclnb_models):
    folder = iclnb_models / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    model, tokenizer = load(folder, device="cpu", dtype="float32")
    hf = AutoModelForCausalLM.from_pretrained(folder).eval()
    start = torch.tensor([[model.config.bos_token_id, *tokenizer.encode("Once upon a time", add_special_tokens=False)]])
    continued, expected = greedy(model, start, 100), greedy(lambda ids: hf(ids).logits, start, 100)
    assert torch.equal(continued, expected)
    assert tokenizer.decode(continued[0], skip_special_tokens=True).startswith(
        "Once upon a time, there was a little girl"
    )


def test_padding_on_the_right_changes_nothing_before_it():
    model = GPT(GPTConfig(vocab_size=50, n_layer=2, n_head=2, n_embd=16)).initialise(0)
    ids = torch.randint(0, 50, (2, 6))
    torch.testing.assert_close(model(torch.cat([ids, torch.zeros(2, 5, dtype=torch.long)], 1))[:, :6], model(ids))


def test_the_same_seed_gives_the_same_weights():
    config = GPTConfig(vocab_size=50, n_layer=1, n_head=2, n_embd=16)
    one, same, other = (GPT(config).initialise(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_recorded_output_and_query_are_what_transformers_modules_give(tmp_path):
    hf = save_checkpoint(tmp_path, layers=2)
    model = load_model(tmp_path, CPU, torch.float32)
    seen = {"output": [], "query": []}
    for layer in hf.model.layers:
        layer.self_attn.out_proj.register_forward_hook(lambda m, i, o: seen["output"].append(o))
        layer.self_attn.q_proj.register_forward_hook(lambda m, i, o: seen["query"].append(o))
    ids, at = torch.randint(0, 400, (3, 9)), torch.tensor([8, 3, 5])
    recorder = Recorder("output", "query", at=at)
    with torch.no_grad():
        hf(ids), model(ids, recorder=recorder)
    for name, kept in recorder.layers.items():
        for layer in range(2):
            expected = seen[name][layer][torch.arange(3), at]  # (B, C)
            torch.testing.assert_close(kept[layer].reshape(3, -1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["xglm", "llama-grouped", "llama-wide", "qwen3", "smollm3-interval", "olmo2"])
def test_recorded_scores_are_what_softmax_turns_into_transformers_weights(kind, tmp_path):
    hf = save_checkpoint(tmp_path, kind.split("-")[0], **KINDS[kind])
    hf.set_attn_implementation("eager")
    model = load_model(tmp_path, CPU, torch.float32)
    prefix, ids, at = torch.randint(0, 400, (1, 5)), torch.randint(0, 400, (2, 4)), torch.tensor([3, 1])
    recorder = Recorder("scores", at=at)
    with torch.no_grad():
        weights = hf(torch.cat([prefix.expand(2, -1), ids], 1), output_attentions=True).attentions
        model(ids, model.encode_prefix(prefix), recorder)
    for layer, scores in enumerate(recorder.layers["scores"]):  # (B, H, P + T)
        for row, stop in enumerate(at + 6):
            expected = weights[layer][row, :, stop - 1, :stop]  # (H, seen tokens)
            torch.testing.assert_close(scores[row, :, :stop].softmax(-1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"n_head": 3}, "n_embd is 16.*n_head = 3"),
        ({"qk_norm": "token"}, "qk_norm is 'token'.*None, head, all"),
        ({"rotary_layers": (True, False)}, "rotary_layers is about 2 layers, but n_layer is 1"),
        ({"bos_token_id": 9}, "bos_token_id is 9; it must be an id below 9, or None"),
        ({"n_kv_head": 3, "n_head": 4}, "n_head is 4.*n_kv_head = 3"),
        ({"positions": "alibi"}, "positions is 'alibi'.*sinusoidal, learned, rotary"),
        ({"norm": "batch"}, "norm is 'batch'.*layer, rms"),
        ({"activation": "relu"}, "activation is 'relu'.*gelu"),
    ],
)
def test_impossible_configurations_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**({"vocab_size": 9, "n_layer": 1, "n_head": 2, "n_embd": 16} | wrong))


def test_a_sequence_beyond_the_positions_is_refused():
    model = GPT(GPTConfig(vocab_size=50, n_layer=1, n_head=2, n_embd=16, n_positions=8)).initialise(0)
    prefix = model.encode_prefix(torch.zeros(1, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="9 tokens does not fit the model's 8 positions"):
        model(torch.zeros(1, 4, dtype=torch.long), prefix)


def test_an_unknown_internal_is_refused():
    with pytest.raises(ValueError, match="'weights'.*output, scores"):
        Recorder("weights")
