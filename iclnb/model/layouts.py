"""The Hub's checkpoint layouts: how XGLM, GPT-2, GPT-NeoX, Llama and Qwen2 say a GPT's shape, and hold its weights.

A layout maps entries of config.json to fields of GPTConfig, and our parameters to tensors of the file; both maps are
read both ways.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from iclnb.model.gpt import GPTConfig

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh"}
FAIRSEQ_VOCABULARY = 50261  # GPT-2's 50257 entries, then <s>, <pad>, </s>, <unk>
MOMENTUM = "_momentum"  # ends the model_type of a model with momentum attention, so that others do not load it as plain
SPELLED_OUT = {"mlp_width": "d_ff", "key_heads": "n_kv_head"}  # a property that is written -> the field it is read into
ROPE = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}  # newer files -> what GPT-NeoX wrote
PACKED = ("attn.q_proj", "attn.k_proj", "attn.v_proj")  # one tensor of some files holds all three, in this order


class CheckpointError(ValueError):
    """A checkpoint that is unknown, unsupported, incomplete or corrupt."""


@dataclass(frozen=True)
class Layout:
    """One checkpoint layout of the Hub.

    Args:
        model_type: its name in config.json.
        class_name: the class of transformers that writes it.
        prefix: what most tensor names begin with; some files leave it out.
        block: the file's name of block i, before the module's.
        names: our module (in a block: without "blocks.i.") -> the file's module; q, k and v may share one.
        entries: entry of config.json -> field or property of GPTConfig, and what it is where the file leaves it out;
            an entry without that must be there.
        implied: fields that the architecture has always.
        supported: entry -> the only value that we have code for, which files leave out, too.
        written: entries that transformers needs, and that say nothing of a GPTConfig.
        transposed: modules stored as (in, out), the other way round than nn.Linear.
        ignored: endings of tensors that hold no parameter.
        interleaved: q, k and v rows alternate head by head in the shared tensor, instead of following each other.
    """

    model_type: str
    class_name: str
    prefix: str
    block: str
    names: Mapping[str, str]
    entries: Mapping[str, tuple]
    implied: Mapping[str, Any]
    supported: Mapping[str, Any] = field(default_factory=dict)
    written: Mapping[str, Any] = field(default_factory=dict)
    transposed: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()
    interleaved: bool = False

    def read(self, raw: dict) -> GPTConfig:
        """The configuration, of plain attention, that a config.json says; errors as in read_config."""
        said, fields = (_with_rope(raw) if self.implied["positions"] == "rotary" else raw), dict(self.implied)
        for entry, value in self.supported.items():
            if said.get(entry) not in (None, value):
                raise ValueError(f"{entry} is {said[entry]!r}; supported is {value!r}")
        for entry, (ours, *default) in self.entries.items():
            value = said.get(entry, *default) if default else said[entry]
            if ours == "activation" and value not in ACTIVATIONS:
                raise ValueError(f"{entry} is {value!r}; supported are {', '.join(ACTIVATIONS)}")
            fields[SPELLED_OUT.get(ours, ours)] = ACTIVATIONS[value] if ours == "activation" else value
        for token in ("bos_token_id", "eos_token_id"):
            if isinstance(fields[token], list) and fields[token]:
                fields[token] = fields[token][0]  # Llama 3 lists the ends of a text, of a turn and of a message
            elif token not in said and fields[token] is not None and fields[token] >= fields["vocab_size"]:
                fields[token] = None  # the architecture's own, of another vocabulary
        if self.model_type == "xglm" and fields["vocab_size"] == FAIRSEQ_VOCABULARY:
            fields |= {"bos_token_id": 50257, "eos_token_id": 50259}  # facts of the vocabulary, whatever it says
        config = GPTConfig(**fields)
        if said.get("head_dim") not in (None, config.head_dim):
            raise ValueError(f"head_dim is {said['head_dim']!r}; supported is {config.head_dim!r}")
        return config

    def write(self, c: GPTConfig) -> dict:
        """The entries of config.json that say a configuration, but for its momentum."""
        entries = {"model_type": self.model_type, "architectures": [self.class_name], **self.written}
        for entry, (ours, *_) in self.entries.items():
            value = getattr(c, ours)
            entries[entry] = value.replace("gelu_tanh", "gelu_new") if ours == "activation" else value
        if "rope_theta" in entries:  # where newer files have it
            entries["rope_parameters"] = {"rope_type": "default", "rope_theta": entries.pop("rope_theta")}
        return entries

    def source(self, parameter: str) -> tuple[str, int | None]:
        """File tensor that holds `parameter`, without prefix, and which third of it (None: all of it)."""
        *scope, module, kind = parameter.split(".")
        block = f"{self.block.format(scope[1])}." if scope[:1] == ["blocks"] else ""
        if module == "momentum":  # ours alone
            return f"{block}momentum.{kind}", None
        ours = ".".join([*scope[2:], module])
        packed = sum(other == self.names[ours] for other in self.names.values()) == 3
        return f"{block}{self.names[ours]}.{kind}", PACKED.index(ours) if packed else None

    def unpack(self, theirs: str, part: int | None, tensor: Tensor, n_head: int) -> Tensor:
        """Our parameter out of the file's tensor: turned to (out, in), and the third that is asked for."""
        tensor = tensor.T if self.is_transposed(theirs) else tensor
        if part is None:
            return tensor.contiguous()
        if self.interleaved:
            return tensor.unflatten(0, (n_head, 3, -1))[:, part].flatten(0, 1).contiguous()
        return tensor.tensor_split(3, dim=0)[part].contiguous()

    def pack(self, theirs: str, parts: list[Tensor], n_head: int) -> Tensor:
        """The file's tensor out of our parameter, or out of our q, k and v."""
        if len(parts) == 1:
            tensor = parts[0]
        elif self.interleaved:
            tensor = torch.stack([p.unflatten(0, (n_head, -1)) for p in parts], dim=1).flatten(0, 2)
        else:
            tensor = torch.cat(parts)
        return (tensor.T if self.is_transposed(theirs) else tensor).contiguous()

    def is_transposed(self, theirs: str) -> bool:
        """Whether the file has this tensor as (in, out)."""
        return theirs.endswith("weight") and any(f".{name}." in theirs for name in self.transposed)


def _with_rope(raw: dict) -> dict:
    """A config.json with what newer files say about rotary positions in one entry at the top, as in older ones.

    Raises:
        ValueError: the frequencies are scaled for longer sequences.
    """
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"rope_type is {kind!r}; supported is 'default', rotary positions without scaling")
    return raw | rope | {older: rope[newer] for newer, older in ROPE.items() if newer in rope}


XGLM = Layout(
    model_type="xglm",
    class_name="XGLMForCausalLM",
    prefix="model.",
    block="layers.{}",
    names={
        "embed_tokens": "embed_tokens",
        "final_norm": "layer_norm",
        "lm_head": "lm_head",
        "attn_norm": "self_attn_layer_norm",
        "attn.q_proj": "self_attn.q_proj",
        "attn.k_proj": "self_attn.k_proj",
        "attn.v_proj": "self_attn.v_proj",
        "attn.out_proj": "self_attn.out_proj",
        "mlp_norm": "final_layer_norm",
        "mlp.up_proj": "fc1",
        "mlp.down_proj": "fc2",
    },
    entries={
        "vocab_size": ("vocab_size",),
        "num_layers": ("n_layer",),
        "attention_heads": ("n_head",),
        "d_model": ("n_embd",),
        "ffn_dim": ("mlp_width",),
        "max_position_embeddings": ("n_positions", 2048),
        "activation_function": ("activation", "gelu"),
        "scale_embedding": ("scale_embeddings", True),
        "tie_word_embeddings": ("tie_embeddings", True),
        "bos_token_id": ("bos_token_id", 0),
        "eos_token_id": ("eos_token_id", 2),
    },
    implied={"positions": "sinusoidal"},
    written={"pad_token_id": 1},  # the class zeroes this row of its position table; any other value shifts positions
    ignored=("embed_positions.weights",),
)

GPT2 = Layout(
    model_type="gpt2",
    class_name="GPT2LMHeadModel",
    prefix="transformer.",
    block="h.{}",
    names={
        "embed_tokens": "wte",
        "embed_positions": "wpe",
        "final_norm": "ln_f",
        "lm_head": "lm_head",
        "attn_norm": "ln_1",
        **dict.fromkeys(PACKED, "attn.c_attn"),
        "attn.out_proj": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.up_proj": "mlp.c_fc",
        "mlp.down_proj": "mlp.c_proj",
    },
    entries={
        "vocab_size": ("vocab_size",),
        "n_layer": ("n_layer",),
        "n_head": ("n_head",),
        "n_embd": ("n_embd",),
        "n_inner": ("d_ff", None),
        "n_positions": ("n_positions", 1024),
        "activation_function": ("activation", "gelu_new"),
        "layer_norm_epsilon": ("layer_norm_eps", 1e-5),
        "tie_word_embeddings": ("tie_embeddings", True),
        "bos_token_id": ("bos_token_id", 50256),
        "eos_token_id": ("eos_token_id", 50256),
    },
    implied={"positions": "learned"},
    transposed=frozenset({"c_attn", "c_proj", "c_fc"}),
    ignored=(".attn.bias", ".attn.masked_bias"),
)

NEOX = Layout(
    model_type="gpt_neox",
    class_name="GPTNeoXForCausalLM",
    prefix="gpt_neox.",
    block="layers.{}",
    names={
        "embed_tokens": "embed_in",
        "final_norm": "final_layer_norm",
        "lm_head": "embed_out",
        "attn_norm": "input_layernorm",
        **dict.fromkeys(PACKED, "attention.query_key_value"),
        "attn.out_proj": "attention.dense",
        "mlp_norm": "post_attention_layernorm",
        "mlp.up_proj": "mlp.dense_h_to_4h",
        "mlp.down_proj": "mlp.dense_4h_to_h",
    },
    entries={
        "vocab_size": ("vocab_size",),
        "num_hidden_layers": ("n_layer",),
        "num_attention_heads": ("n_head",),
        "hidden_size": ("n_embd",),
        "intermediate_size": ("mlp_width",),
        "max_position_embeddings": ("n_positions", 2048),
        "rotary_pct": ("rotary_fraction", 0.25),
        "rotary_emb_base": ("rotary_base", 10000),
        "hidden_act": ("activation", "gelu"),
        "use_parallel_residual": ("parallel_residual", True),
        "layer_norm_eps": ("layer_norm_eps", 1e-5),
        "tie_word_embeddings": ("tie_embeddings", False),
        "bos_token_id": ("bos_token_id", 0),
        "eos_token_id": ("eos_token_id", 2),
    },
    implied={"positions": "rotary"},
    ignored=(".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"),
    interleaved=True,
)

LLAMA = Layout(
    model_type="llama",
    class_name="LlamaForCausalLM",
    prefix="model.",
    block="layers.{}",
    names={
        "embed_tokens": "embed_tokens",
        "final_norm": "norm",
        "lm_head": "lm_head",
        "attn_norm": "input_layernorm",
        "attn.q_proj": "self_attn.q_proj",
        "attn.k_proj": "self_attn.k_proj",
        "attn.v_proj": "self_attn.v_proj",
        "attn.out_proj": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "mlp.gate_proj": "mlp.gate_proj",
        "mlp.up_proj": "mlp.up_proj",
        "mlp.down_proj": "mlp.down_proj",
    },
    entries={
        "vocab_size": ("vocab_size",),
        "num_hidden_layers": ("n_layer",),
        "num_attention_heads": ("n_head",),
        "num_key_value_heads": ("key_heads", None),
        "hidden_size": ("n_embd",),
        "intermediate_size": ("mlp_width",),
        "max_position_embeddings": ("n_positions",),
        "rope_theta": ("rotary_base", 10000.0),
        "rms_norm_eps": ("layer_norm_eps",),
        "tie_word_embeddings": ("tie_embeddings", False),
        "bos_token_id": ("bos_token_id", 1),
        "eos_token_id": ("eos_token_id", 2),
    },
    implied={"positions": "rotary", "activation": "swiglu", "norm": "rms", "bias": False, "qkv_bias": False},
    supported={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "use_sliding_window": False},
    written={"hidden_act": "silu"},
    ignored=("rotary_emb.inv_freq",),
)

QWEN2 = replace(
    LLAMA,
    model_type="qwen2",
    class_name="Qwen2ForCausalLM",
    entries={**LLAMA.entries, "bos_token_id": ("bos_token_id", None), "eos_token_id": ("eos_token_id", None)},
    implied={**LLAMA.implied, "qkv_bias": True},
)

LAYOUTS = {layout.model_type: layout for layout in (XGLM, GPT2, NEOX, LLAMA, QWEN2)}


def read_config(raw: dict) -> tuple[Layout, GPTConfig]:
    """The layout and the configuration that a config.json holds.

    Raises:
        KeyError: it lacks an entry.
        ValueError: an architecture or a variant that is not supported.
    """
    kind = str(raw.get("model_type"))
    layout = LAYOUTS.get(kind.removesuffix(MOMENTUM))
    if layout is None:
        raise ValueError(f"model_type is {kind!r}; supported are {', '.join(LAYOUTS)}")
    config = layout.read(raw)
    if not kind.endswith(MOMENTUM):
        if "momentum" in raw:
            raise ValueError(f"it says momentum {raw['momentum']}, but its model_type is {kind!r}, plain attention")
        return layout, config
    momentum = tuple(raw["momentum"]) if isinstance(raw["momentum"], list) else raw["momentum"]
    return layout, replace(config, momentum=momentum, learn_momentum=raw["learn_momentum"])


def write_config(layout: Layout, c: GPTConfig) -> dict:
    """The entries of config.json that say this configuration."""
    plain = layout.write(c)
    if c.momentum is None:
        return plain
    kind = layout.model_type + MOMENTUM
    return plain | {"model_type": kind, "architectures": [], "momentum": c.momentum, "learn_momentum": c.learn_momentum}


def layout_for(config: GPTConfig) -> Layout:
    """The layout that keeps everything of this configuration.

    Raises:
        ValueError: there is none, because no architecture of the Hub combines these variants.
    """
    for layout in LAYOUTS.values():
        try:
            _, read_again = read_config(write_config(layout, config))
        except ValueError:  # a variant that this layout cannot say
            continue
        if _spelled_out(read_again, config) == _spelled_out(config, config):
            return layout
    raise ValueError(f"no layout of {', '.join(LAYOUTS)} holds {config}")


def _spelled_out(c: GPTConfig, ids: GPTConfig) -> GPTConfig:
    """The configuration with its defaults written out, and the special ids of another."""
    explicit = {"d_ff": c.mlp_width, "n_kv_head": c.key_heads, "qkv_bias": c.biased_qkv}
    return replace(c, **explicit, bos_token_id=ids.bos_token_id, eos_token_id=ids.eos_token_id)
