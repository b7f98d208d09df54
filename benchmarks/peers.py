"""The same few-shot predictions by other ways, on the same token ids: transformers' XGLM and lm-evaluation-harness.

Each takes the ids of the prefix (P), of n queries and of the answers, one token each, and gives log-probabilities
(n, answers) in float32. None has to tokenise.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, XGLMForCausalLM


def load_xglm(folder: Path, dtype: torch.dtype) -> XGLMForCausalLM:
    """transformers' own model of a checkpoint, in eval mode."""
    return XGLMForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@torch.no_grad()
def full_prompt(hf: XGLMForCausalLM, prefix: list[int], queries: list[list[int]], answers: list[int]) -> Tensor:
    """transformers, plainly: the whole prompt for each query, one at a time."""
    rows = [hf(torch.tensor([prefix + query])).logits[0, -1].float().log_softmax(-1)[answers] for query in queries]
    return torch.stack(rows)  # (n, answers)


@torch.no_grad()
def encode_prefix(hf: XGLMForCausalLM, prefix: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the prefix, (1, H, P, D) each, one pair a layer, without the logits that nobody reads."""
    cache = hf.model(torch.tensor([prefix]), use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


@torch.no_grad()
def repeated_cache(
    hf: XGLMForCausalLM, prefix: list[tuple[Tensor, Tensor]], queries: list[list[int]], answers: list[int], batch: int
) -> Tensor:
    """transformers, with care: the prefix once, repeated for each row of a batch, logits at the last token alone.

    Queries are sorted by length. The cache gets a view that repeats the prefix, so it is written out once a batch, when
    the library appends the queries' keys and values to it.
    """
    order = sorted(range(len(queries)), key=lambda i: len(queries[i]))
    found = torch.empty(len(queries), len(answers))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        ids = pad_sequence([torch.tensor(queries[i]) for i in rows], batch_first=True)  # (B, T)
        cache = DynamicCache([(k.expand(len(rows), -1, -1, -1), v.expand(len(rows), -1, -1, -1)) for k, v in prefix])
        hidden = hf.model(ids, past_key_values=cache, use_cache=True).last_hidden_state  # (B, T, C)
        last = hidden[torch.arange(len(rows)), torch.tensor([len(queries[i]) - 1 for i in rows])]  # (B, C)
        found[rows] = hf.lm_head(last).float().log_softmax(-1)[:, answers]  # (B, answers)
    return found


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
