"""Small checkpoints, tokenizers and tasks that the tests make for themselves."""

import importlib.util
import json
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    XGLMConfig,
    XGLMForCausalLM,
)

from iclnb.tasks.task import SPECS, Example, Task, build_task

TEXT = [
    "Sentence: a warm and funny film Label: Positive",
    "Sentence: a cold and tired film Label: Negative",
    "Review: Input: Type: Sentiment: Article: Question: Answer: True, False, or Neither?",
]


def hf_model(kind: str, *, layers=2, width=32, heads=4, vocab=400, positions=256, seed=0, **extra):
    """A random model of transformers, in eval mode and float32."""
    torch.manual_seed(seed)
    if kind == "xglm":
        config = XGLMConfig(
            vocab_size=vocab,
            num_layers=layers,
            d_model=width,
            attention_heads=heads,
            ffn_dim=4 * width,
            max_position_embeddings=positions,
            pad_token_id=1,
            **extra,
        )
        model = XGLMForCausalLM(config)
    elif kind == "gpt2":
        config = GPT2Config(
            vocab_size=vocab, n_layer=layers, n_embd=width, n_head=heads, n_positions=positions, bos_token_id=0, **extra
        )
        model = GPT2LMHeadModel(config)
    elif kind in ("llama", "qwen2"):
        make_config, make_model = (
            (LlamaConfig, LlamaForCausalLM) if kind == "llama" else (Qwen2Config, Qwen2ForCausalLM)
        )
        config = make_config(
            vocab_size=vocab,
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=heads,
            num_key_value_heads=heads // extra.pop("heads_a_key", 1),
            intermediate_size=3 * width,
            max_position_embeddings=positions,
            **({"bos_token_id": 0, "eos_token_id": 2} | extra),
        )
        model = make_model(config)
    else:
        config = GPTNeoXConfig(
            vocab_size=vocab,
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=positions,
            **extra,
        )
        model = GPTNeoXForCausalLM(config)
    with torch.no_grad():  # biases and norms start as zeros and ones, which would hide a swap
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model.eval()


def save_fairseq_tokenizer(folder: Path, vocab: int = 400) -> None:
    """A byte-level BPE in GPT-2's own files (vocab.json, merges.txt), as the fairseq checkpoints have it."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXT * 3, vocab_size=vocab - 4, min_frequency=1, show_progress=False)
    bpe.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))


def save_checkpoint(folder: Path, kind: str = "xglm", **shape):
    """A random checkpoint with tokenizer, saved by transformers in the Hub's layout; returns transformers' model."""
    model = hf_model(kind, **shape)
    model.save_pretrained(folder)
    save_fairseq_tokenizer(folder, shape.get("vocab", 400))
    return model


def toy_task(train: int = 12, evaluation: int = 9, name: str = "sst2") -> Task:
    """A task of short sentences of several lengths under one of the real templates."""
    spec = SPECS[name]
    words = ["warm", "cold", "funny", "tired", "long", "short"]

    def example(i: int) -> Example:
        text = " ".join(words[(i // 6**j) % 6] for j in range(1 + i % 4)) + f" {i}"
        return Example(spec.template.format(**dict.fromkeys(spec.fields, text)), i % len(spec.answers))

    return build_task(spec, "toy", map(example, range(train)), map(example, range(100, 100 + evaluation)))


def script(name: str):
    """The module data/`name`/make.py, loaded anew."""
    spec = importlib.util.spec_from_file_location("make", Path(__file__).parents[1] / "data" / name / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
