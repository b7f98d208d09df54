"""What the attention layers did during one call of the model, kept for those who ask.

Letters: B sequences, T tokens, P prefix tokens, C width, H heads, G key heads, D head width.
"""

import torch
from torch import Tensor

from iclnb.attention.softmax import attention_scores, fold, repeat_heads, unfold


class Recorder:
    """Collects internals of the attention layers during one call of the model.

    Args:
        names: which internals; each becomes a list with one tensor a layer in `layers[name]`:
            "output": the attention block's output after its output projection, before the residual, (B, C);
            "scores": scaled inner products of the query with every key, before mask and softmax, (B, H, P + T);
            "query": the query vectors W_Q x, normalised where the model does so, before any rotation, (B, H, D);
            "key", "value": all keys and values, (B, G, T, D).
        at: (B,) int, the position of each sequence that output, scores and query are taken at; None takes every
            position, which adds a T dimension before the last.

    Raises:
        ValueError: an unknown name.
    """

    NAMES = ("output", "scores", "query", "key", "value")

    def __init__(self, *names: str, at: Tensor | None = None):
        for name in names:
            if name not in self.NAMES:
                raise ValueError(f"cannot record {name!r}; known are {', '.join(self.NAMES)}")
        self.at = at
        self.layers: dict[str, list[Tensor]] = {name: [] for name in names}

    def take(self, query: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, prefix_k: Tensor | None) -> None:
        """Keep what was asked for of one layer.

        Args:
            query: W_Q x, normalised where the model does so, (B, H, T, D).
            q, k, v: what attention used, rotated where positions are rotary, (B, H, T, D) and twice (B, G, T, D).
            output: the attention block's output, (B, T, C).
            prefix_k: keys of the prefix, (1, G, P, D), or None.
        """
        for name, x in (("output", output), ("query", query)):
            if name in self.layers:
                self._keep(name, self._select(x))  # (B, C) or (B, H, D)
        if "scores" in self.layers:
            q_at = self._select(q)  # (B, H, 1 or T, D)
            B, H, *_ = q_at.shape
            scores = attention_scores(q_at, repeat_heads(k, H))  # (B, H, 1 or T, T)
            if prefix_k is not None:
                over_prefix = unfold(attention_scores(fold(q_at, k.shape[1]), prefix_k), B, H)  # (B, H, 1 or T, P)
                scores = torch.cat([over_prefix, scores], dim=-1)  # (B, H, 1 or T, P + T)
            self._keep("scores", scores)
        for name, x in (("key", k), ("value", v)):
            if name in self.layers:
                self.layers[name].append(x)  # (B, G, T, D)

    def _select(self, x: Tensor) -> Tensor:
        """x (B, ..., T, last) at the recorded position: (B, ..., 1, last), or all of x."""
        if self.at is None:
            return x
        index = self.at.view(-1, *[1] * (x.dim() - 1)).expand(*x.shape[:-2], 1, x.shape[-1])
        return x.gather(-2, index)

    def _keep(self, name: str, x: Tensor) -> None:
        self.layers[name].append(x.detach() if self.at is None else x.squeeze(-2).detach())
