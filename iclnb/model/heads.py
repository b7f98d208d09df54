"""The heads of a loaded model laid open: query, keys and values, ready for the formulas of iclnb.duality.

Letters: L layers, H heads, D head width, C width, P tokens of the demonstrations, T tokens of the query's own.
`<s>` stands before the query with and without demonstrations, so it counts among the query's own tokens here.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from iclnb.attention.softmax import causal_mask, repeat_heads
from iclnb.model.gpt import GPT, Prefix
from iclnb.model.positions import rotary_angles, rotate
from iclnb.model.recorder import Recorder


def turn(model: GPT, x: Tensor, positions: Tensor) -> Tensor:
    """Queries or keys as attention uses them: turned by their positions in layers that rotate, else as they are.

    Args:
        model: says how positions enter.
        x: queries or keys of all layers as SelfAttention.project gives them, (L, H, M, D).
        positions: place of each of the M tokens in the sequence, (M,) int.
    """
    config = model.config
    if config.positions != "rotary":
        return x
    width, base, scaling = config.rotary_width, config.rotary_base, config.rotary_scaling
    turned = rotate(x, *rotary_angles(positions.to(x.device), width, base, scaling))  # (L, H, M, D)
    rotates = torch.tensor([config.rotates(layer) for layer in range(len(x))], device=x.device)  # (L,)
    return turned.where(rotates[:, None, None, None], x)  # (L, H, M, D)


@torch.no_grad()
def read(model: GPT, prefix: Prefix, query: Sequence[int], start: int | None = None) -> tuple[Tensor, ...]:
    """Query, keys and values of every head at the last token of a query, in the order that exact_split takes them.

    Args:
        model: from iclnb.load.
        prefix: of `<s>` and the demonstrations, from GPT.encode_prefix; of `<s>` alone for zero-shot.
        query: token ids of the query, T - 1.
        start: position of the query's first token; None is the one behind the prefix.

    Returns:
        q (L, H, 1, D); K_demo and V_demo (L, H, P, D); K_query and V_query (L, H, T, D), `<s>` first. All are float64,
        and rotated where positions are rotary.

    Raises:
        ValueError: an empty query, or a query that starts inside the prefix.
    """
    count, before = len(query), prefix.length  # T - 1, P + 1
    start = before if start is None else start
    if count < 1 or start < before:
        raise ValueError(
            f"the query has {count} tokens and starts at {start}; it needs a token, and a start of {before} or more"
        )
    device = model.embed_tokens.weight.device
    recorder = Recorder("query", "key", "value", at=torch.tensor([count - 1], device=device))
    places = start - before + torch.arange(count, device=device)  # (T - 1,) counted after the prefix
    model.hidden(torch.tensor([list(query)], device=device), prefix, recorder, places)
    q = torch.stack(recorder.layers["query"])[:, 0, :, None]  # (L, H, 1, D)
    q = turn(model, q, torch.tensor([start + count - 1]))  # recorded before rotation, unlike the keys
    parts = prefix.keys, prefix.values, recorder.layers["key"], recorder.layers["value"]  # L x (1, G, ..., D) each
    H = q.shape[1]
    K_before, V_before, K_own, V_own = (repeat_heads(torch.cat(x).double(), H) for x in parts)  # (L, H, ..., D) each
    K_query, V_query = torch.cat([K_before[:, :, :1], K_own], 2), torch.cat([V_before[:, :, :1], V_own], 2)
    return q.double(), K_before[:, :, 1:], V_before[:, :, 1:], K_query, V_query


@torch.no_grad()
def attention_inputs(model: GPT, ids: Sequence[int]) -> list[Tensor]:
    """What goes into the attention block of each layer for one sequence: L tensors X, (S, C), S tokens."""
    caught: list[Tensor] = []
    hooks = [b.attn.register_forward_pre_hook(lambda _, args: caught.append(args[0][0])) for b in model.blocks]
    try:
        model.hidden(torch.tensor([list(ids)], device=model.embed_tokens.weight.device))
    finally:
        for hook in hooks:
            hook.remove()
    return caught


@torch.no_grad()
def project(model: GPT, inputs: Sequence[Tensor], name: str) -> Tensor:
    """Queries, keys or values that a model's projections make of given layer inputs.

    Args:
        model: whose projections; it may be another model than the one that the inputs come from.
        inputs: L tensors (S, C), from attention_inputs.
        name: "q", "k" or "v".

    Returns:
        (L, H, S, D) float64; queries and keys rotated where positions are rotary.

    Raises:
        ValueError: an unknown name.
    """
    if name not in ("q", "k", "v"):
        raise ValueError(f"name is {name!r}; it is one of 'q', 'k', 'v'")
    which = "qkv".index(name)
    X = [block.attn.project(x[None])[which] for block, x in zip(model.blocks, inputs, strict=True)]  # (1, H or G, S, D)
    x = torch.cat(X)  # (L, H or G, S, D)
    x = repeat_heads(x, model.config.n_head)  # (L, H, S, D): grouped heads share their keys and values
    return (x if name == "v" else turn(model, x, torch.arange(x.shape[2]))).double()


def learned_momentum(model: GPT) -> list[list[float]]:
    """The learned eta of each layer and head, (L, H) as lists; empty where none is learned."""
    return [block.attn.momentum.eta().tolist() for block in model.blocks if model.config.learn_momentum]


@torch.no_grad()
def attention_patterns(model: nn.Module, ids: Tensor) -> Tensor:
    """The attention weights of every head, (L, B, H, T, T) float32 or wider, of ids (B, T)."""
    recorder, T = Recorder("scores"), ids.shape[1]
    model(ids, recorder=recorder)
    scores = torch.stack(recorder.layers["scores"])  # (L, B, H, T, T)
    return scores.masked_fill(~causal_mask(T, ids.device), -torch.inf).softmax(-1)  # (L, B, H, T, T)


@torch.no_grad()
def spread(model: GPT, ids: Tensor) -> dict[str, Tensor]:
    """How widely each head's softmax weights spread, and how far back they look; momentum is not part of them.

    Args:
        model: plain or with momentum.
        ids: (B, T).

    Returns:
        "entropy" of the weights in nats and mean "distance" t - i to the attended position in tokens, means over
        sequences and positions, (L, H) float32 each.
    """
    A = attention_patterns(model, ids)  # (L, B, H, T, T)
    t = torch.arange(ids.shape[1], device=A.device)  # (T,)
    entropy = torch.special.entr(A).sum(-1)  # (L, B, H, T)
    distance = (A * (t[:, None] - t)).sum(-1)  # (L, B, H, T)
    return {"entropy": entropy.mean((1, 3)).cpu(), "distance": distance.mean((1, 3)).cpu()}


@torch.no_grad()
def head_means(model: nn.Module, sequences: Iterable[Sequence[int]]) -> Tensor:
    """What every head says on average, over all positions of some sequences: (L, H, D).

    Args:
        model: a GPT or AttentionOnly.
        sequences: token ids of each.
    """
    caught: list[Tensor] = []  # (T, C) each: a layer after the other, for one sequence after the other
    hooks = [b.attn.out_proj.register_forward_pre_hook(lambda _, args: caught.append(args[0][0])) for b in model.blocks]
    try:
        for ids in sequences:
            model(torch.tensor([list(ids)], device=model.embed_tokens.weight.device))
    finally:
        for hook in hooks:
            hook.remove()
    layers = [torch.cat(caught[layer :: len(hooks)]) for layer in range(len(hooks))]  # (tokens, C) each
    return torch.stack([said.mean(0) for said in layers]).unflatten(-1, (model.config.n_head, -1))  # (L, H, D)


@contextmanager
def ablated(model: nn.Module, heads: Iterable[tuple[int, int]], means: Tensor | None = None) -> Iterator[nn.Module]:
    """The model with the outputs of some heads replaced, inside a `with` block.

    Args:
        model: a GPT or AttentionOnly; its weights are not touched.
        heads: pairs (layer, head), counted from 0.
        means: what they say instead, (L, H, D), as head_means gives it; None is zero.

    Raises:
        ValueError: a head that the model does not have.
    """
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        if not (0 <= layer < len(model.blocks) and 0 <= head < model.config.n_head):
            raise ValueError(
                f"there is no head {head} in layer {layer}; the model has layers 0 to {len(model.blocks) - 1} "
                f"and heads 0 to {model.config.n_head - 1}"
            )
        by_layer.setdefault(layer, []).append(head)
    handles = [
        model.blocks[layer].attn.out_proj.register_forward_pre_hook(
            _replace(which, model.config.head_dim, 0 if means is None else means[layer, which])
        )
        for layer, which in by_layer.items()
    ]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _replace(heads: list[int], D: int, said: Tensor | int):
    """A hook that puts `said`, (heads, D) or 0, into these heads' columns of what enters the output projection."""

    def hook(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        y = inputs[0].clone()  # (B, T, C), the heads side by side
        y.unflatten(-1, (-1, D))[..., heads, :] = said
        return (y,)

    return hook
