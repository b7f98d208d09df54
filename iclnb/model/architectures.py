"""The architectures that we read: XGLM, GPT-2, GPT-NeoX, Llama, Qwen2 and Qwen3, SmolLM3 and OLMo 2, in tables."""

import reprlib
from dataclasses import replace

from iclnb.model.gpt import GPTConfig
from iclnb.model.layouts import PACKED, Layout, checked

MOMENTUM = "_momentum"  # ends the model_type of a model with momentum attention, so that others do not load it as plain

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
    # The class zeroes this row of its position table, whose first two are not used.
    supported={"pad_token_id": (1, 0, None)},
    aliases={"num_hidden_layers": "num_layers", "num_attention_heads": "attention_heads", "hidden_size": "d_model"},
    written={"pad_token_id": 1},
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
    supported={"scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,)},
    aliases={
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
    },
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
    supported={"attention_bias": (True,)},
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
        "head_dim": ("head_dim", None),
        "intermediate_size": ("mlp_width",),
        "max_position_embeddings": ("n_positions",),
        "rope_theta": ("rotary_base", 10000.0),
        "rms_norm_eps": ("layer_norm_eps",),
        "tie_word_embeddings": ("tie_embeddings", False),
        "bos_token_id": ("bos_token_id", 1),
        "eos_token_id": ("eos_token_id", 2),
    },
    implied={"positions": "rotary", "activation": "swiglu", "norm": "rms", "bias": False, "qkv_bias": False},
    supported={
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "partial_rotary_factor": (None, 1),
        "sliding_window": (None,),
    },
    written={"hidden_act": "silu"},
    ignored=("rotary_emb.inv_freq",),
)
WINDOWLESS = {  # windows may be described, but not in use
    **{entry: known for entry, known in LLAMA.supported.items() if entry != "sliding_window"},
    "use_sliding_window": (False,),
    "layer_types": (None, "full_attention"),
}

QWEN2 = replace(
    LLAMA,
    model_type="qwen2",
    class_name="Qwen2ForCausalLM",
    entries={
        **LLAMA.entries,
        "num_key_value_heads": ("key_heads", 32),
        "bos_token_id": ("bos_token_id", None),
        "eos_token_id": ("eos_token_id", None),
    },
    implied={**LLAMA.implied, "qkv_bias": True},
    supported={entry: known for entry, known in WINDOWLESS.items() if entry != "attention_bias"},
)

QK_NORMS = {"attn.q_norm": "self_attn.q_norm", "attn.k_norm": "self_attn.k_norm"}

QWEN3 = replace(
    QWEN2,
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    names={**LLAMA.names, **QK_NORMS},
    entries={**QWEN2.entries, "head_dim": ("head_dim", 128)},
    implied={**LLAMA.implied, "qk_norm": "head"},
    supported=WINDOWLESS,
)

SMOLLM3 = replace(
    LLAMA,
    model_type="smollm3",
    class_name="SmolLM3ForCausalLM",
    entries={
        **LLAMA.entries,
        "num_key_value_heads": ("key_heads", 4),
        "rope_theta": ("rotary_base", 2e6),
        "no_rope_layers": ("rotary_layers", None),
        "tie_word_embeddings": ("tie_embeddings", True),
        "bos_token_id": ("bos_token_id", 128000),
        "eos_token_id": ("eos_token_id", 128001),
    },
    supported=WINDOWLESS,
    written={"hidden_act": "silu", "pad_token_id": None},  # its own pad_token_id lies outside a smaller vocabulary
)

OLMO2 = replace(
    LLAMA,
    model_type="olmo2",
    class_name="Olmo2ForCausalLM",
    names={
        **LLAMA.names,
        **QK_NORMS,
        "attn_norm": "post_attention_layernorm",
        "mlp_norm": "post_feedforward_layernorm",
    },
    entries={**LLAMA.entries, "bos_token_id": ("bos_token_id", None), "eos_token_id": ("eos_token_id", 50279)},
    implied={**LLAMA.implied, "norm_after": True, "qk_norm": "all"},
)

LAYOUTS = {layout.model_type: layout for layout in (XGLM, GPT2, NEOX, LLAMA, QWEN2, QWEN3, SMOLLM3, OLMO2)}


def read_config(raw: dict) -> tuple[Layout, GPTConfig]:
    """The layout and the configuration that a config.json holds.

    Raises:
        KeyError: it lacks an entry.
        ValueError: an architecture or a variant that is not supported.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"it holds {reprlib.repr(raw)}; it must be an object with the entries of a configuration")
    kind = raw.get("model_type")
    layout = LAYOUTS.get(kind.removesuffix(MOMENTUM)) if isinstance(kind, str) else None
    if layout is None:
        raise ValueError(f"model_type is {reprlib.repr(kind)}; supported are {', '.join(LAYOUTS)}")
    config = layout.read(raw)
    if not kind.endswith(MOMENTUM):
        if "momentum" in raw:
            said = reprlib.repr(raw["momentum"])
            raise ValueError(f"it says momentum {said}, but its model_type is {kind!r}, plain attention")
        return layout, config
    said, several = raw["momentum"], isinstance(raw["momentum"], list | tuple)
    etas = tuple(checked("momentum", eta, "momentum") for eta in (said if several else [said]))
    learn = checked("learn_momentum", raw["learn_momentum"], "learn_momentum")
    return layout, replace(config, momentum=etas if several else etas[0], learn_momentum=learn)


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
    explicit = {"d_ff": c.mlp_width, "n_kv_head": c.key_heads, "d_head": c.head_dim, "qkv_bias": c.biased_qkv}
    explicit["rotary_layers"] = tuple(c.rotates(layer) for layer in range(c.n_layer))
    return replace(c, **explicit, bos_token_id=ids.bos_token_id, eos_token_id=ids.eos_token_id)
