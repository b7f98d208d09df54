"""The decoder-only Transformer: the GPT of the paper's checkpoints, GPT-2, and rotary GPTs, by configuration.

Letters: B sequences, T tokens, P prefix tokens, C width, H heads, G key heads, D head width, V vocabulary.
Blocks normalise first: x + attention(norm(x)), then x + mlp(norm(x)); or, in OLMo 2, last: x + norm(attention(x)).
"""

import math
import reprlib
from dataclasses import dataclass, replace

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from iclnb.attention.precision import widen
from iclnb.attention.softmax import causal_mask, prefix_attention, repeat_heads
from iclnb.model.momentum import Momentum, check_choice
from iclnb.model.positions import RotaryScaling, rotary_angles, rotate, sinusoidal_positions
from iclnb.model.recorder import Recorder

POSITIONS = ("sinusoidal", "learned", "rotary")
ACTIVATIONS = ("gelu", "gelu_tanh", "swiglu")
NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}
KNOWN = {"positions": POSITIONS, "activation": ACTIVATIONS, "norm": NORMS, "qk_norm": (None, "head", "all")}
VOCABULARY_PIECE = 2048  # rows of 16-bit output weights that are widened at a time


@dataclass(frozen=True)
class GPTConfig:
    """Shape and variant of a GPT.

    Args:
        vocab_size: V, entries of the embedding table.
        n_layer, n_head, n_embd: layers, heads H and width C.
        n_positions: longest sequence, prefix included.
        d_ff: width of the hidden layer of each MLP; None is 4 C.
        n_kv_head: heads G of keys and values, each shared by H / G query heads; G divides H; None is H.
        d_head: width D of a head; None is C / H, and then H divides C.
        positions: "sinusoidal" (fairseq's table, offset 2), "learned" (GPT-2) or "rotary" (GPT-NeoX, Llama).
        rotary_fraction, rotary_base: share of each head that rotates, and the base of its frequencies.
        rotary_scaling: how these are slowed down for longer sequences (Llama 3.1); None is not at all.
        rotary_layers: whether each layer rotates (SmolLM3: three in four do); None is all.
        activation: "gelu" (exact), "gelu_tanh" (GPT-2's approximation) or "swiglu" (Llama's gated MLP).
        norm: "layer" (LayerNorm) or "rms" (RMSNorm, Llama).
        norm_after: the norms of a block act on what attention and MLP give, instead of on what they take (OLMo 2).
        qk_norm: queries and keys are normalised before they rotate, "head" by head (Qwen3) or "all" at once (OLMo 2).
        bias: biases in all linear layers of the blocks.
        qkv_bias: biases in the query, key and value projections; None is as `bias` says.
        scale_embeddings: multiply token embeddings by sqrt(C), as fairseq does.
        parallel_residual: x + attention(norm(x)) + mlp(norm(x)) in one step, as most GPT-NeoX models do.
        tie_embeddings: use the embedding table as the output projection.
        layer_norm_eps: added to the variance in LayerNorm, to the mean square in RMSNorm.
        bos_token_id, eos_token_id: ids of `<s>` and `</s>`, below V; None where the vocabulary has no such token.
        momentum: eta in [0, 1) of momentum attention in all layers, one number or one a head; None is plain attention.
        learn_momentum: eta is a parameter, one a head in every layer, which starts at `momentum` in (0, 1).

    Raises:
        ValueError: C / H / G that do not divide, an unknown variant, an id outside the vocabulary, or a wrong momentum.
    """

    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    n_positions: int = 2048
    d_ff: int | None = None
    n_kv_head: int | None = None
    d_head: int | None = None
    positions: str = "sinusoidal"
    rotary_fraction: float = 1.0
    rotary_base: float = 10000.0
    rotary_scaling: RotaryScaling | None = None
    rotary_layers: tuple[bool, ...] | None = None
    activation: str = "gelu"
    norm: str = "layer"
    norm_after: bool = False
    qk_norm: str | None = None
    bias: bool = True
    qkv_bias: bool | None = None
    scale_embeddings: bool = False
    parallel_residual: bool = False
    tie_embeddings: bool = True
    layer_norm_eps: float = 1e-5
    bos_token_id: int | None = 0
    eos_token_id: int | None = 0
    momentum: float | tuple[float, ...] | None = None
    learn_momentum: bool = False

    def __post_init__(self):
        if self.d_head is None and self.n_embd % self.n_head:
            raise ValueError(f"n_embd is {self.n_embd}, which n_head = {self.n_head} does not divide")
        if self.n_head % self.key_heads:
            raise ValueError(f"n_head is {self.n_head}, which n_kv_head = {self.n_kv_head} does not divide")
        for option, choices in KNOWN.items():
            if (value := getattr(self, option)) not in choices:
                raise ValueError(f"{option} is {value!r}; known are {', '.join(map(str, choices))}")
        if self.rotary_layers is not None and len(self.rotary_layers) != self.n_layer:
            raise ValueError(f"rotary_layers is about {len(self.rotary_layers)} layers, but n_layer is {self.n_layer}")
        for token in ("bos_token_id", "eos_token_id"):
            value = getattr(self, token)
            if value is not None and (type(value) is not int or value not in range(self.vocab_size)):
                raise ValueError(f"{token} is {reprlib.repr(value)}; it must be an id below {self.vocab_size}, or None")
        if self.positions == "rotary" and self.rotary_width % 2:
            turned = f"{self.rotary_width} of the {self.head_dim} numbers of a head, and they are turned in pairs"
            raise ValueError(f"rotary_fraction is {self.rotary_fraction}; it turns {turned}")
        check_choice(self.momentum, self.learn_momentum, self.n_head)

    @property
    def head_dim(self) -> int:
        """Width D of one head."""
        return self.n_embd // self.n_head if self.d_head is None else self.d_head

    @property
    def key_heads(self) -> int:
        """Heads G of keys and values."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def rotary_width(self) -> int:
        """How many of a head's D numbers rotate, where positions are rotary."""
        return int(self.head_dim * self.rotary_fraction)

    def rotates(self, layer: int) -> bool:
        """Whether queries and keys of this layer rotate."""
        return self.positions == "rotary" and (self.rotary_layers is None or self.rotary_layers[layer])

    @property
    def mlp_width(self) -> int:
        """Width of the hidden layer of each MLP."""
        return self.d_ff or 4 * self.n_embd

    @property
    def biased_qkv(self) -> bool:
        """Whether the query, key and value projections have biases."""
        return self.bias if self.qkv_bias is None else self.qkv_bias


@dataclass
class Prefix:
    """Keys and values of a token sequence that later sequences continue, one pair (1, G, P, D) a layer.

    With momentum attention also what the values add at the position that follows, (1, H, D) a layer.
    """

    keys: list[Tensor]
    values: list[Tensor]
    sums: list[Tensor | None] | None = None

    @property
    def length(self) -> int:
        """Number P of tokens in the prefix."""
        return self.keys[0].shape[-2]

    def layer(self, i: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values and their sum in layer i."""
        return self.keys[i], self.values[i], None if self.sums is None else self.sums[i]


class SelfAttention(nn.Module):
    """Causal multi-head self-attention: W_Q, W_K, W_V, softmax attention, momentum if wanted, output projection."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        C, D, bias = config.n_embd, config.head_dim, config.biased_qkv
        all_q, all_k = config.n_head * D, config.key_heads * D  # widths of all heads side by side
        self.head_dim, self.qk_norm = D, config.qk_norm
        self.q_proj = nn.Linear(C, all_q, bias)
        self.k_proj = nn.Linear(C, all_k, bias)
        self.v_proj = nn.Linear(C, all_k, bias)
        if config.qk_norm is not None:
            norm, eps, by_head = NORMS[config.norm], config.layer_norm_eps, config.qk_norm == "head"
            self.q_norm, self.k_norm = norm(D if by_head else all_q, eps=eps), norm(D if by_head else all_k, eps=eps)
        plain = config.momentum is None
        self.momentum = None if plain else Momentum(config.momentum, config.learn_momentum, config.n_head)
        self.out_proj = nn.Linear(all_q, C, config.bias)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, D), keys and values (B, G, T, D) of x (B, T, C), normalised if wanted, not yet rotated."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)  # (B, T, H * D), (B, T, G * D) twice
        if self.qk_norm == "all":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for y in (q, k, v))  # (B, H or G, T, D)
        if self.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None = None,
        prefix: tuple[Tensor, Tensor, Tensor | None] | None = None,
        mask: Tensor | None = None,
        recorder: Recorder | None = None,
        positions: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Attend within x (B, T, C), after a layer of a Prefix; mask, positions and at as in GPT.hidden; (B, T, C)."""
        query, k, v = self.project(x)  # (B, H, T, D), (B, G, T, D) twice
        q = query
        if rotary is not None:
            q, k = rotate(query, *rotary), rotate(k, *rotary)  # (B, H, T, D), (B, G, T, D)
        if at is not None:  # A of the tokens look, at all of them: from here on A takes the place of T in q, y, output
            mask = causal_mask(x.shape[1], x.device)[None, None] if mask is None else mask  # (B or 1, 1, T, T)
            q, mask = (m.take_along_dim(at[:, None, :, None], dim=2) for m in (q, mask))  # (B, H, A, D), (B, 1, A, T)
        own_k, own_v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])  # (B, H, T, D)
        if prefix is None:
            y = F.scaled_dot_product_attention(q, own_k, own_v, attn_mask=mask, is_causal=mask is None)  # (B, H, T, D)
        else:
            y, _ = prefix_attention(q, k, v, *prefix[:2], mask)  # (B, H, T, D)
        if self.momentum is not None:
            y = self.momentum(own_v, y, prefix and prefix[2], mask, positions, at, query)  # (B, H, T, D)
        output = self.out_proj(y.transpose(1, 2).flatten(2))  # (B, T, C)
        if recorder is not None:
            recorder.take(query, q, k, v, output, prefix[0] if prefix is not None else None)
        return output


class MLP(nn.Module):
    """Two linear layers with an activation between them; SwiGLU has a third, whose SiLU multiplies the first."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        C, width, bias = config.n_embd, config.mlp_width, config.bias
        self.up_proj = nn.Linear(C, width, bias)
        self.gate_proj = nn.Linear(C, width, bias) if config.activation == "swiglu" else None
        self.down_proj = nn.Linear(width, C, bias)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        if self.gate_proj is not None:
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(F.gelu(self.up_proj(x), approximate=self.approximate))


class Block(nn.Module):
    """One layer: attention and MLP, each with a norm before or after it, and added to the residual stream."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.parallel_residual, self.norm_after = config.parallel_residual, config.norm_after
        self.attn_norm = NORMS[config.norm](config.n_embd, eps=config.layer_norm_eps)
        self.attn = SelfAttention(config)
        self.mlp_norm = NORMS[config.norm](config.n_embd, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rotary=None, prefix=None, mask=None, recorder=None, positions=None, at=None) -> Tensor:
        """(B, T, C) to (B, T, C), or to (B, A, C) with `at`; arguments as in SelfAttention."""
        before = x if self.norm_after else self.attn_norm(x)  # (B, T, C)
        output = self.attn(before, rotary, prefix, mask, recorder, positions, at)  # (B, T or A, C), and so below
        x = x if at is None else x.take_along_dim(at.unsqueeze(-1), dim=1)
        attended = x + (self.attn_norm(output) if self.norm_after else output)
        before = x if self.parallel_residual else attended
        return attended + (self.mlp_norm(self.mlp(before)) if self.norm_after else self.mlp(self.mlp_norm(before)))


class GPT(nn.Module):
    """Token embeddings, positions, a stack of blocks, a last norm and the output projection."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.n_embd)
        if config.positions == "learned":
            self.embed_positions = nn.Embedding(config.n_positions, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.final_norm = NORMS[config.norm](config.n_embd, eps=config.layer_norm_eps)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    @torch.no_grad()
    def initialise(self, seed: int) -> "GPT":
        """Draw all weights afresh: normal with deviation 0.02, projections into the residual stream smaller.

        Source: Radford et al. 2019, section 2.3 (1 / sqrt(number of residual layers)).
        """
        generator = torch.Generator(device=self.embed_tokens.weight.device).manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("momentum.logit"):
                parameter.copy_(self.get_submodule(name.removesuffix(".logit")).start())
            elif "norm" in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                into_residual = name.endswith(("out_proj.weight", "down_proj.weight"))
                std = 0.02 / math.sqrt(2 * self.config.n_layer) if into_residual else 0.02
                parameter.normal_(0.0, std, generator=generator)
        return self

    def forward(self, ids: Tensor, prefix: Prefix | None = None, recorder: Recorder | None = None, **how) -> Tensor:
        """Next-token logits, (B, T, V) float32, of token ids (B, T) that continue `prefix`; `how` as in hidden."""
        return self.logits(self.hidden(ids, prefix, recorder, **how))  # (B, T, V)

    def hidden(
        self,
        ids: Tensor,
        prefix: Prefix | None = None,
        recorder: Recorder | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        recompute: bool = False,
        at: Tensor | None = None,
    ) -> Tensor:
        """Output of the last norm.

        Args:
            ids: (B, T) token ids; shorter sequences are padded on the right with any id.
            prefix: keys and values of tokens that come before every sequence.
            recorder: what to keep of the attention layers.
            positions: (B, T) int, the place of each token after the prefix; None is 0 .. T - 1. How far they reach is
                checked on the CPU alone: a GPU would be waited for.
            mask: (B, 1, T, T) bool, which tokens of its sequence each token sees; None is itself and the earlier ones.
            recompute: for gradients, keep the input of each block alone and compute the rest again on the way back.
            at: (B, A) int, the only places whose output is wanted; without a recorder the last block skips the rest.

        Returns:
            (B, T, C), or (B, A, C) with `at`, in the model's dtype.

        Raises:
            ValueError: prefix and sequence together are longer than the model has positions.
        """
        P, T, device = (prefix.length if prefix is not None else 0), ids.shape[1], ids.device
        if positions is None or positions.device.type == "cpu":
            length, limit = P + (T if positions is None else int(positions.max()) + 1), self.config.n_positions
            if length > limit:
                raise ValueError(f"a sequence of {length} tokens does not fit the model's {limit} positions")
        positions = torch.arange(T, device=device) if positions is None else positions.to(device)  # (T,) or (B, T)
        x, rotary = self._embed(ids, P + positions)  # (B, T, C)
        for layer, block in enumerate(self.blocks):
            only = at if recorder is None and block is self.blocks[-1] else None
            turn = rotary if self.config.rotates(layer) else None
            how = (turn, None if prefix is None else prefix.layer(layer), mask, recorder, positions, only)
            x = checkpoint(block, x, *how, use_reentrant=False) if recompute else block(x, *how)  # (B, T, C)
        if at is not None and recorder is not None:
            x = x.take_along_dim(at.unsqueeze(-1), dim=1)  # (B, A, C)
        return self.final_norm(x)  # (B, T or A, C)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits, (..., V) float32 or wider, of hidden states (..., C); a 16-bit product would round them coarsely.

        Only torch.autocast, by which a training asks for 16-bit products, makes it one too; the result is then widened.
        """
        weight, wide = self.lm_head.weight, widen(hidden)  # (V, C), (..., C)
        if weight.dtype == wide.dtype:
            return widen(self.lm_head(wide))
        return widen(torch.cat([F.linear(wide, widen(rows)) for rows in weight.split(VOCABULARY_PIECE)], dim=-1))

    @torch.no_grad()
    def encode_prefix(self, ids: Tensor, before: Prefix | None = None) -> Prefix:
        """What attention needs to know of one token sequence (1, P), to be continued by many.

        With `before`, the sequence continues that prefix, and the result is the prefix of both: one token more, say.
        """
        recorder = Recorder("key", "value")
        self.hidden(ids, before, recorder)
        keys, values, sums = recorder.layers["key"], recorder.layers["value"], None
        momenta = [block.attn.momentum for block in self.blocks]
        if any(momenta):
            earlier = [None] * len(values) if before is None else before.sums
            sums = [m and m.carry(v, s) for m, v, s in zip(momenta, values, earlier, strict=True)]  # (1, H, D) each
        if before is not None:
            keys = [torch.cat(pair, dim=2) for pair in zip(before.keys, keys, strict=True)]  # (1, G, P + T, D) each
            values = [torch.cat(pair, dim=2) for pair in zip(before.values, values, strict=True)]
        return Prefix(keys, values, sums)

    def with_momentum(self, momentum: float | tuple[float, ...] | None, learn: bool = False) -> "GPT":
        """The same weights with another momentum, or none; only a learned momentum is not shared with this model.

        Args:
            momentum, learn: `momentum` and `learn_momentum` of GPTConfig.

        Raises:
            ValueError: a momentum that cannot be.
        """
        weight = self.embed_tokens.weight
        with torch.device("meta"):
            other = GPT(replace(self.config, momentum=momentum, learn_momentum=learn))  # shapes only
        weights = {name: w for name, w in self.named_parameters() if not name.endswith("momentum.logit")}
        other.load_state_dict(weights, strict=False, assign=True)
        for block in other.blocks if learn else ():
            block.attn.momentum.logit = nn.Parameter(block.attn.momentum.start().to(weight))
        if self.config.tie_embeddings:
            other.lm_head.weight = other.embed_tokens.weight
        return other.train(self.training)

    def _embed(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Embedded tokens (B, T, C), and cosines and sines where positions are rotary."""
        config, x = self.config, self.embed_tokens(ids)  # (B, T, C)
        if config.scale_embeddings:
            x = x * math.sqrt(config.n_embd)
        if config.positions == "rotary":
            cos, sin = rotary_angles(positions, config.rotary_width, config.rotary_base, config.rotary_scaling)
            return x, (cos.unsqueeze(-3), sin.unsqueeze(-3))  # (1, T, width) or (B, 1, T, width), for all heads
        if config.positions == "learned":
            return x + self.embed_positions(positions), None
        return x + sinusoidal_positions(positions, config.n_embd).to(x.dtype), None
