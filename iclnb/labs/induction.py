"""Induction heads: an attention-only model that grows them, one built by hand, and scores for the heads of any GPT.

An induction head looks for earlier copies of the current token and attends to what came next: [A][B] ... [A] -> [B].

Letters: B sequences of T tokens, V tokens of the vocabulary, C width, H heads, D = C / H head width, L layers.

Source: Olsson et al. 2022, In-context Learning and Induction Heads; Elhage et al. 2021 for the two-layer circuit.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from iclnb.labs import at_least
from iclnb.model.gpt import GPTConfig, SelfAttention
from iclnb.model.heads import attention_patterns
from iclnb.model.positions import rotary_angles
from iclnb.model.recorder import Recorder

# A small base turns neighbours further apart: one position back is learnt within the first hundreds of steps.
SHAPE = GPTConfig(64, n_layer=2, n_head=4, n_embd=64, positions="rotary", rotary_base=100.0, tie_embeddings=False)
STEPS, BATCH, LENGTH = 1500, 32, 64  # steps of training, sequences a step, tokens predicted in each
BLOCKS = (4, 24)  # shortest and longest block in training
PROBE_BLOCK = 16  # the block length that the record is measured with
EARLY, LATE = 5, 50  # positions of the in-context learning score, a tenth of Olsson et al.'s 50 and 500
KINDS = {  # of models whose trainings are stored, SEEDS of each
    "layers_2": {"n_layer": 2},
    "layers_1": {"n_layer": 1},
    "smeared_1": {"n_layer": 1, "smeared": True},
}
SEEDS = 5
SNAPSHOTS = (100, 400, 600, 800, STEPS)  # steps at which the weights are kept


class SmearedKeys(nn.Module):
    """Keys that hold the token before as well: k_j <- a k_j + (1 - a) k_(j - 1), with a learned a for each head.

    Args:
        projection: the keys as they would be, (B, T, C) to (B, T, H * D); position 0 has no token before and keeps its.
        H: heads.

    Source: Olsson et al. 2022, argument 2, the "smeared key" architecture, with a = sigmoid(alpha).
    """

    def __init__(self, projection: nn.Linear, H: int):
        super().__init__()
        self.projection, self.alpha = projection, nn.Parameter(torch.zeros(H, 1))

    def forward(self, x: Tensor) -> Tensor:
        k = self.projection(x).unflatten(-1, (len(self.alpha), -1))  # (B, T, H, D)
        before = torch.cat([k[:, :1], k[:, :-1]], dim=1)  # (B, T, H, D)
        a = self.alpha.sigmoid()  # (H, 1)
        return (a * k + (1 - a) * before).flatten(-2)  # (B, T, H * D)


class AttentionBlock(nn.Module):
    """One layer without an MLP: attention behind a LayerNorm, added to the residual stream; keys smeared if wanted."""

    def __init__(self, config: GPTConfig, smeared: bool = False):
        super().__init__()
        self.attn_norm = nn.LayerNorm(config.n_embd)
        self.attn = SelfAttention(config)
        if smeared:
            self.attn.k_proj = SmearedKeys(self.attn.k_proj, config.n_head)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], recorder: Recorder | None) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        return x + self.attn(self.attn_norm(x), rotary, recorder=recorder)  # (B, T, C)


class AttentionOnly(nn.Module):
    """Token embeddings, a stack of attention layers with rotary positions, and the output projection.

    Args:
        config: of its entries, those about embeddings, heads, rotary positions and n_layer count.
        seed: of the drawn weights.
        smeared: mix each key with the one before it, as SmearedKeys does.
    """

    def __init__(self, config: GPTConfig, seed: int = 0, smeared: bool = False):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(AttentionBlock(config, smeared) for _ in range(config.n_layer))
        self.final_norm = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if name.endswith("weight") and p.dim() == 2:
                nn.init.normal_(p, std=1 / math.sqrt(config.n_embd), generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, ids: Tensor, recorder: Recorder | None = None) -> Tensor:
        """Next-token logits, (B, T, V), of token ids (B, T)."""
        config, x = self.config, self.embed_tokens(ids)  # (B, T, C)
        positions = torch.arange(ids.shape[1], device=ids.device)  # (T,)
        rotary = rotary_angles(positions, config.rotary_width, config.rotary_base)
        for block in self.blocks:
            x = block(x, rotary, recorder)  # (B, T, C)
        return self.lm_head(self.final_norm(x))  # (B, T, V)


@torch.no_grad()
def by_hand(V: int = 8) -> AttentionOnly:
    """An induction circuit with every weight set by hand: two layers of one head each.

    The residual stream has a part of V numbers for the token, one for the token before it, which layer 1 writes, and
    one for the prediction, which layer 2 writes. Layer 1 is a previous-token head: its queries and keys are the same
    everywhere but for their rotation, and the scores are largest one position back. Layer 2 compares its token with the
    token before every position, and copies the token of the position where they match.

    Args:
        V: tokens of the vocabulary.

    Returns:
        The model, C = D = 4 V.

    Raises:
        ValueError: V below 4, which leaves too few rotary frequencies.

    Source: the circuit is Elhage et al. 2021, section "Induction Heads"; the construction is ours.
    """
    if V < 4:
        raise ValueError(f"V is {V}; the construction needs at least 4")
    config = GPTConfig(V, 2, 1, 4 * V, positions="rotary", rotary_fraction=0.5, tie_embeddings=False)
    model, eye, rotated = AttentionOnly(config), torch.eye(V), 2 * V
    token, before, prediction = slice(0, V), slice(V, 2 * V), slice(2 * V, 3 * V)  # of the residual stream
    free = slice(rotated, rotated + V)  # a part of the head that does not rotate
    for name, p in model.named_parameters():
        if "norm" not in name:
            p.zero_()
    model.embed_tokens.weight[:, token] = eye
    previous, induction = (block.attn for block in model.blocks)
    cos, sin = rotary_angles(torch.tensor(1), rotated, config.rotary_base)  # (2 V,): a turn by one position
    previous.q_proj.bias[:V] = previous.k_proj.bias[:V] = 15.0
    previous.k_proj.bias[:rotated] = 15.0 * torch.cat([cos[:V], sin[:V]])  # turned one position ahead
    previous.v_proj.weight[free, token], previous.out_proj.weight[before, free] = eye, 0.2 * eye
    induction.q_proj.weight[free, token] = induction.k_proj.weight[free, before] = 4.0 * eye
    induction.v_proj.weight[free, token], induction.out_proj.weight[prediction, free] = eye, eye
    model.lm_head.weight[:, prediction] = 4.0 * eye
    return model.eval()


# ---------------------------------------------------------------------------------------------------------------- data


def repeated_blocks(B: int, L: int, T: int, generator: torch.Generator, low: int = 0, high: int = 64) -> Tensor:
    """Sequences in which one block of L random tokens comes again and again.

    Args:
        B, T: number and length of the sequences.
        L: length of the block; T - L tokens can be told from the context.
        generator: source of every choice.
        low, high: tokens are drawn from low .. high - 1.

    Returns:
        (B, T) int64.

    Raises:
        ValueError: B or L below 1, T not above L, or no token between low and high.
    """
    if B < 1 or L < 1 or T <= L or high <= low:
        raise ValueError(
            f"B is {B}, L is {L}, T is {T}, low is {low}, high is {high}; wanted are B, L >= 1, T > L, high > low"
        )
    block = torch.randint(low, high, (B, L), generator=generator)  # (B, L)
    return block.repeat(1, -(-T // L))[:, :T]  # (B, T)


@torch.no_grad()
def loss_by_position(model: nn.Module, ids: Tensor) -> Tensor:
    """Cross-entropy of the next token at each position, in nats, averaged over sequences: (T - 1,) for ids (B, T)."""
    logits = model(ids[:, :-1])  # (B, T - 1, V)
    return F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(0)  # (T - 1,)


# -------------------------------------------------------------------------------------------------------------- scores


def prefix_matching(patterns: Tensor, L: int) -> Tensor:
    """How much each head attends from a token to what followed the token's earlier copies.

    Args:
        patterns: attention weights on sequences that repeat a block, (layers, B, H, T, T).
        L: length of the block.

    Returns:
        Share of attention, summed over the earlier copies, averaged over sequences and over the positions t >= L, in
        [0, 1]: (layers, H).

    Raises:
        ValueError: L below 2, or no position after the first block.

    Source: Olsson et al. 2022, "prefix matching score", on blocks of 25 random tokens, four times.
    """
    T = patterns.shape[-1]
    if not 2 <= L < T:
        raise ValueError(f"L is {L}; a block has at least 2 tokens and is shorter than the {T} of the sequence")
    t, j = torch.arange(T, device=patterns.device)[:, None], torch.arange(T, device=patterns.device)  # (T, 1), (T,)
    follows_a_copy = (0 < j) & (j < t) & ((t - j + 1) % L == 0)  # (T, T): j - 1 lies r L before t, r = 1, 2, ...
    return (patterns * follows_a_copy).sum(-1)[..., L:].mean((1, 3))  # (layers, H)


def previous_token(patterns: Tensor) -> Tensor:
    """Attention of each head to the position just before, averaged over sequences and positions t >= 1: (layers, H)."""
    return patterns.diagonal(-1, -2, -1).mean((1, 3))  # (layers, H)


def icl_score(losses: Tensor, early: int, late: int) -> float:
    """Loss at a late position minus loss at an early one, in nats; the more negative, the more the context helps.

    Args:
        losses: by position, (T - 1,); entry i is the loss of predicting token i + 1.
        early, late: positions, 1 <= early < late <= T - 1.

    Raises:
        ValueError: positions outside the sequence, or in the wrong order.

    Source: Olsson et al. 2022, "in-context learning score", with early = 50 and late = 500.
    """
    if not 1 <= early < late <= len(losses):
        raise ValueError(f"early is {early}, late is {late}; wanted is 1 <= early < late <= {len(losses)}")
    return (losses[late - 1] - losses[early - 1]).item()


@torch.no_grad()
def copying(model: AttentionOnly, layer: int) -> Tensor:
    """For each head of a layer, the share of tokens whose own logit it raises most when it attends to them: (H,).

    LayerNorms are left out: attending to token i adds W_U W_OV e_i to the logits.
    """
    attn, W_E, W_U = model.blocks[layer].attn, model.embed_tokens.weight, model.lm_head.weight  # (V, C) twice
    W_V = attn.v_proj.weight.unflatten(0, (-1, attn.head_dim))  # (H, D, C)
    W_O = attn.out_proj.weight.unflatten(1, (-1, attn.head_dim)).transpose(0, 1)  # (H, C, D)
    effect = W_U @ (W_O @ W_V) @ W_E.T  # (H, V out, V in)
    return (effect.argmax(1) == torch.arange(len(W_E), device=W_E.device)).double().mean(1)  # (H,)


def random_sets(heads: Sequence[tuple[int, int]], m: int, count: int, seed: int = 0) -> list[tuple]:
    """Different sets of m of these heads, drawn at random: `count` of them, or all where there are no more."""
    if math.comb(len(heads), m) <= count:
        return list(combinations(heads, m))
    draw, sets = random.Random(seed), {}
    while len(sets) < count:
        sets[tuple(sorted(draw.sample(heads, m)))] = None
    return list(sets)


def late_loss(losses: Tensor) -> float:
    """Mean loss at the five positions around LATE, in nats: low where the context is used, whatever comes early.

    Args:
        losses: by position, (T - 1,), at least LATE + 2 of them.
    """
    return losses[LATE - 3 : LATE + 2].mean().item()


# ------------------------------------------------------------------------------------------------------------ training


def training_batch(step: int, seed: int) -> Tensor:
    """The sequences of a step, (BATCH, LENGTH + 1); one block length for all."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    L = int(torch.randint(BLOCKS[0], BLOCKS[1] + 1, (), generator=generator))
    return repeated_blocks(BATCH, L, LENGTH + 1, generator, high=SHAPE.vocab_size)


@torch.no_grad()
def measure(model: nn.Module, probe: Tensor) -> dict[str, float]:
    """Scores of every head and the loss at every position, on sequences (B, T) that repeat a block of PROBE_BLOCK."""
    patterns, losses = attention_patterns(model, probe), loss_by_position(model, probe)
    row = {"icl": icl_score(losses, EARLY, LATE), "late": late_loss(losses)}
    for name, scores in (("prefix", prefix_matching(patterns, PROBE_BLOCK)), ("previous", previous_token(patterns))):
        row |= {f"{name}_{layer}_{h}": x for layer, of in enumerate(scores.tolist()) for h, x in enumerate(of)}
    return row | {f"loss_{position + 1}": x for position, x in enumerate(losses.tolist())}


def grow(
    n_layer: int = 2,
    steps: int = STEPS,
    seed: int = 0,
    every: int = 25,
    progress: bool = True,
    *,
    smeared: bool = False,
) -> tuple[AttentionOnly, list[dict[str, float]], dict[str, Tensor]]:
    """Train an attention-only model on repeated blocks of random tokens.

    Args:
        n_layer: attention layers.
        steps: of AdamW.
        seed: of weights and sequences.
        every: steps between two rows of the record.
        progress: show a progress bar.
        smeared: with SmearedKeys.

    Returns:
        The model; the record, rows of step, training loss since the last row and what `measure` gives; and the weights
        at SNAPSHOTS, as "step/parameter".

    Raises:
        ValueError: n_layer or steps below 1.
    """
    at_least(1, n_layer=n_layer, steps=steps)
    model = AttentionOnly(replace(SHAPE, n_layer=n_layer), seed, smeared)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, betas=(0.9, 0.98), weight_decay=0.01)
    probe = repeated_blocks(64, PROBE_BLOCK, LENGTH + 1, torch.Generator().manual_seed(-1 - seed))  # (64, T)
    record, snapshots, losses = [{"step": 0, "loss": math.log(SHAPE.vocab_size)} | measure(model, probe)], {}, []
    for step in tqdm(range(1, steps + 1), unit="step", disable=not progress, leave=False):
        optimizer.param_groups[0]["lr"] = 0.003 * min(1, step / 30)
        ids = training_batch(step, seed)  # (BATCH, LENGTH + 1)
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % every == 0 or step == steps:
            record.append({"step": step, "loss": sum(losses) / len(losses)} | measure(model, probe))
            losses = []
        if step in SNAPSHOTS:
            snapshots |= {f"{step}/{name}": p.half() for name, p in model.state_dict().items()}
    return model.eval(), record, snapshots


def snapshot(file: Path, step: int, n_layer: int = 2) -> AttentionOnly:
    """The model as it was after a step of training.

    Args:
        file: what the command line stored as snapshots.safetensors.
        step: one of SNAPSHOTS.
        n_layer: of the stored model.

    Raises:
        ValueError: a step that was not kept.
    """
    if step not in SNAPSHOTS:
        raise ValueError(f"step is {step}; kept are {', '.join(map(str, SNAPSHOTS))}")
    model, tensors = AttentionOnly(replace(SHAPE, n_layer=n_layer)), load_file(file)
    model.load_state_dict({name: tensors[f"{step}/{name}"].float() for name in model.state_dict()})
    return model.eval()
