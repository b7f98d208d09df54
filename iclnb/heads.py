"""The heads of a loaded model laid open: query, keys and values, ready for the formulas of iclnb.duality.

Letters: L layers, H heads, D head width, C width, P prefix tokens (`<s>` and demonstrations), T tokens of the query.
`<s>` stands before the query with and without demonstrations, so it counts among the query's own tokens here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from iclnb.attention import repeat_heads
from iclnb.gpt import GPT, Prefix
from iclnb.positions import rotary_angles, rotate
from iclnb.recorder import Recorder


def turn(model: GPT, x: Tensor, positions: Tensor) -> Tensor:
    """Queries or keys as attention uses them: turned by their positions where those are rotary, else as they are.

    Args:
        model: says how positions enter.
        x: W_Q x or W_K x, (..., H, M, D).
        positions: place of each of the M tokens in the sequence, (M,) int.
    """
    config = model.config
    if config.positions != "rotary":
        return x
    return rotate(x, *rotary_angles(positions.to(x.device), config.rotary_width, config.rotary_base))


@torch.no_grad()
def read(model: GPT, prefix: Prefix, query: Sequence[int], start: int | None = None) -> tuple[Tensor, ...]:
    """Query, keys and values of every head at the last token of a query, in the order that exact_split takes them.

    Args:
        model: from iclnb.load.
        prefix: of `<s>` and the demonstrations, from GPT.encode_prefix; of `<s>` alone for zero-shot.
        query: token ids of the query.
        start: position of the query's first token; None is the one behind the prefix.

    Returns:
        q (L, H, 1, D); K_demo and V_demo (L, H, P - 1, D); K_query and V_query (L, H, 1 + T, D), `<s>` first. All are
        float64, and rotated where positions are rotary.

    Raises:
        ValueError: an empty query, or a query that starts inside the prefix.
    """
    T, P = len(query), prefix.length
    start = P if start is None else start
    if T < 1 or start < P:
        raise ValueError(
            f"the query has {T} tokens and starts at {start}; it needs a token, and a start of {P} or more"
        )
    device = model.embed_tokens.weight.device
    recorder = Recorder("query", "key", "value", at=torch.tensor([T - 1], device=device))
    places = start - P + torch.arange(T, device=device)  # (T,) counted after the prefix
    model.hidden(torch.tensor([list(query)], device=device), prefix, recorder, places)
    q = torch.stack(recorder.layers["query"])[:, 0, :, None]  # (L, H, 1, D)
    q = turn(model, q, torch.tensor([start + T - 1]))  # recorded before rotation, unlike the keys
    parts = prefix.keys, prefix.values, recorder.layers["key"], recorder.layers["value"]  # L x (1, G, ..., D) each
    K_before, V_before, K_own, V_own = (repeat_heads(torch.cat(x), q.shape[1]) for x in parts)  # (L, H, P or T, D)
    K_query, V_query = torch.cat([K_before[:, :, :1], K_own], 2), torch.cat([V_before[:, :, :1], V_own], 2)
    return tuple(x.double() for x in (q, K_before[:, :, 1:], V_before[:, :, 1:], K_query, V_query))


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
    X = [getattr(block.attn, f"{name}_proj")(x) for block, x in zip(model.blocks, inputs, strict=True)]  # L x (S, C)
    x = torch.stack(X).unflatten(-1, (-1, model.config.head_dim)).transpose(1, 2)  # (L, H or fewer, S, D)
    x = repeat_heads(x, model.config.n_head)  # (L, H, S, D): grouped heads share their keys and values
    return (x if name == "v" else turn(model, x, torch.arange(x.shape[2]))).double()
