"""The same few-shot predictions by other ways, on the same token ids: transformers' XGLM and lm-evaluation-harness.

Each takes the ids of the prefix (P), of n queries and of the answers, one token each, and gives log-probabilities
(n, answers) in float32. None has to tokenise.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, XGLMConfig, XGLMForCausalLM


def load_xglm(folder: Path, dtype: torch.dtype) -> XGLMForCausalLM:
    """transformers' own model of a checkpoint, in eval mode."""
    return XGLMForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def random_xglm(L: int, C: int, H: int, device: str, dtype: torch.dtype) -> XGLMForCausalLM:
    """transformers' own model of a shape of the fairseq dense family, with random weights, made on the device."""
    shape = {"num_layers": L, "d_model": C, "ffn_dim": 4 * C, "attention_heads": H, "max_position_embeddings": 2048}
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return XGLMForCausalLM(XGLMConfig(vocab_size=50261, **shape)).to(device, dtype).eval()
    finally:
        torch.set_default_dtype(before)


@torch.no_grad()
def full_prompt(hf: XGLMForCausalLM, prefix: list[int], queries: list[list[int]], answers: list[int]) -> Tensor:
    """transformers, plainly: the whole prompt for each query, one at a time."""
    rows = [hf(torch.tensor([prefix + query])).logits[0, -1].float().log_softmax(-1)[answers] for query in queries]
    return torch.stack(rows)  # (n, answers)


@torch.no_grad()
def full_prompts(
    hf: XGLMForCausalLM, prefix: list[int], queries: list[list[int]], answers: list[int], batch: int
) -> Tensor:
    """full_prompt with some care: in batches, with logits at the last token alone."""
    return by_length(hf, [prefix + query for query in queries], answers, batch, lambda rows: {"use_cache": False})


@torch.no_grad()
def encode_prefix(hf: XGLMForCausalLM, prefix: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the prefix, (1, H, P, D) each, one pair a layer, without the logits that nobody reads."""
    cache = hf.model(torch.tensor([prefix], device=hf.device), use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


@torch.no_grad()
def repeated_cache(
    hf: XGLMForCausalLM, prefix: list[tuple[Tensor, Tensor]], queries: list[list[int]], answers: list[int], batch: int
) -> Tensor:
    """transformers, with care: the prefix once, repeated for each row of a batch, logits at the last token alone.

    The cache gets a view that repeats the prefix, so it is written out once a batch, when the library appends the
    queries' keys and values to it.
    """

    def cache(rows: int) -> dict[str, Any]:
        pairs = [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in prefix]
        return {"past_key_values": DynamicCache(pairs), "use_cache": True}

    return by_length(hf, queries, answers, batch, cache)


def by_length(
    hf: XGLMForCausalLM, sequences: list[list[int]], answers: list[int], batch: int, how: Callable[[int], dict]
) -> Tensor:
    """Log-probabilities (n, answers) after sequences that are sorted by length; `how` gives a batch's options."""
    order, found = sorted(range(len(sequences)), key=lambda i: len(sequences[i])), []
    for start in range(0, len(order), batch):
        rows = [torch.tensor(sequences[i]) for i in order[start : start + batch]]
        ids = pad_sequence(rows, batch_first=True).to(hf.device)  # (B, T)
        hidden = hf.model(ids, **how(len(rows))).last_hidden_state  # (B, T, C)
        last = hidden[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]  # (B, C)
        found.append(hf.lm_head(last).float().log_softmax(-1)[:, answers])  # (B, answers)
    back = sorted(range(len(order)), key=order.__getitem__)
    return torch.cat(found).cpu()[back]  # (n, answers)


def load_harness(hf: XGLMForCausalLM, tokenizer: Any, batch: int) -> Any:
    """lm-evaluation-harness's Hugging Face backend around the same model; None where lm_eval is not installed."""
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        return None
    return HFLM(pretrained=hf, tokenizer=tokenizer, batch_size=batch, max_length=hf.config.max_position_embeddings)


def harness(lm: Any, prefix: list[int], queries: list[list[int]], answers: list[int]) -> Tensor:
    """The backend's log-likelihoods of each answer; it runs a query's answers together, since they are one token long.

    This calls what `loglikelihood` calls once it has tokenised its strings.
    """
    requests = [((str(i), str(a)), prefix + query, [a]) for i, query in enumerate(queries) for a in answers]
    found = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    return torch.tensor([log_prob for log_prob, _ in found]).view(len(queries), len(answers))  # (n, answers)
