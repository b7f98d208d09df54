"""Small checkpoints, tokenizers and tasks that the tests make for themselves."""

import copy
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from gguf import MODEL_ARCH as ARCH
from gguf import GGMLQuantizationType, GGUFWriter, get_tensor_name_map, quantize
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from iclnb.tasks.task import SPECS, Example, Task, build_task

TEXT = [
    "Sentence: a warm and funny film Label: Positive",
    "Sentence: a cold and tired film Label: Negative",
    "Review: Input: Type: Sentiment: Article: Question: Answer: True, False, or Neither?",
]

# Every type that the gguf package can write, as far as transformers reads it; the last two take rows of 256.
QUANTISED = [GGMLQuantizationType[name] for name in "F16 BF16 Q8_0 Q5_1 Q5_0 Q4_1 Q4_0 MXFP4 TQ1_0 TQ2_0".split()]


def hf_model(kind: str, *, layers=2, width=32, heads=4, vocab=400, positions=256, seed=0, **extra):
    """A random model of transformers, in eval mode and float32."""
    torch.manual_seed(seed)
    layered = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    layered |= {"max_position_embeddings": positions, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    if kind == "xglm":
        layered["ffn_dim"] = 4 * width
    elif kind == "gpt_neox":
        layered["intermediate_size"] = 4 * width
    elif kind != "gpt2":  # one of Llama's family
        layered |= {"num_key_value_heads": heads // extra.pop("heads_a_key", 1), "intermediate_size": 3 * width}
    config = AutoConfig.for_model(kind, vocab_size=vocab, **layered | copy.deepcopy(extra))  # which it edits
    model = AutoModelForCausalLM.from_config(config)
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


def script(name: str, file: str = "make.py"):
    """The module data/`name`/`file`, loaded anew."""
    spec = importlib.util.spec_from_file_location("make", Path(__file__).parents[1] / "data" / name / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_gguf(
    file: Path, kind: str = "llama", stored: GGMLQuantizationType = GGMLQuantizationType.F32, edit=None, **shape
):
    """A random GGUF file with the tokenizer of save_fairseq_tokenizer, written as llama.cpp's own script writes it.

    Args:
        file: to write.
        kind: "llama", "qwen2" or "gpt2".
        stored: the type of all matrices; vectors are float32, as ever.
        edit: called with the metadata and the tensors, name -> (type, array), to change them before they are written.
        shape: of hf_model.

    Returns:
        transformers' model of the same weights, before they were quantised.
    """
    model = hf_model(kind, **({"width": 256, "positions": 1024, "vocab": 400} | shape))
    c, file = model.config, Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_fairseq_tokenizer(file.parent, c.vocab_size)
    entries = json.loads((file.parent / "vocab.json").read_text())
    tokens = sorted(entries, key=entries.get)
    tokens += [f"<|{i}|>" for i in range(len(tokens), c.vocab_size)]
    merges = [line for line in (file.parent / "merges.txt").read_text().splitlines() if not line.startswith("#")]
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (file.parent / name).unlink()
    metadata = {
        f"{kind}.block_count": c.num_hidden_layers,
        f"{kind}.context_length": c.max_position_embeddings,
        f"{kind}.embedding_length": c.hidden_size,
        f"{kind}.feed_forward_length": 4 * c.hidden_size if kind == "gpt2" else c.intermediate_size,
        f"{kind}.attention.head_count": c.num_attention_heads,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2" if kind == "gpt2" else "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token.startswith("<|") else 1 for token in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(tokens) - 1,
        "tokenizer.ggml.eos_token_id": len(tokens) - 2,
    }
    if kind == "gpt2":
        metadata["gpt2.attention.layer_norm_epsilon"] = c.layer_norm_epsilon
    else:
        metadata |= {
            f"{kind}.attention.head_count_kv": c.num_key_value_heads,
            f"{kind}.attention.layer_norm_rms_epsilon": c.rms_norm_eps,
            f"{kind}.rope.freq_base": c.rope_parameters["rope_theta"],
            f"{kind}.vocab_size": c.vocab_size,
        }
    if kind == "llama":
        metadata["llama.rope.dimension_count"] = c.hidden_size // c.num_attention_heads
    tensors = {name: (stored if w.ndim > 1 else GGMLQuantizationType.F32, w) for name, w in _gguf_tensors(model, kind)}
    if edit is not None:
        edit(metadata, tensors)
    writer = GGUFWriter(file, metadata.pop("general.architecture", kind))
    for key, value in metadata.items():
        of_kind = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
        of_kind[type(value)](key, value)
    for name, (type_, weight) in tensors.items():
        writer.add_tensor(name, quantize(weight, type_) if type_ in QUANTISED else weight, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _gguf_tensors(model, kind: str):
    """Names and arrays of a GGUF file: the Hub's, but for the order of Llama's rows, and of GPT-2's axes."""
    c, names = model.config, get_tensor_name_map({"llama": ARCH.LLAMA, "qwen2": ARCH.QWEN2, "gpt2": ARCH.GPT2}[kind], 9)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        weight, (module, _, part) = tensor.numpy(), name.rpartition(".")
        heads = {"q_proj": c.num_attention_heads, "k_proj": getattr(c, "num_key_value_heads", None)}
        if kind == "llama" and (H := heads.get(module.rpartition(".")[2])):
            weight = weight.reshape(H, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)
        if kind == "gpt2" and part == "weight" and module.rpartition(".")[2] in ("c_attn", "c_proj", "c_fc"):
            weight = weight.T
        yield f"{names.get_name(module)}.{part}", np.ascontiguousarray(weight)
