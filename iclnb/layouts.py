"""How the Hub's checkpoint layouts name and pack the parameters of a GPT: XGLM, GPT-2, GPT-NeoX, Llama and Qwen2.

A layout says, for each of our parameters, which tensor of the file holds it and which part of that tensor it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from iclnb.gpt import GPTConfig

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh"}
FAIRSEQ_VOCABULARY = 50261  # GPT-2's 50257 entries, then <s>, <pad>, </s>, <unk>


@dataclass(frozen=True)
class Layout:
    """One checkpoint layout of the Hub.

    Args:
        model_type: its name in config.json.
        class_name: the class of transformers that writes it.
        prefix: what most tensor names begin with; some files leave it out.
        names: our module (in a block: without "blocks.i.") -> the file's module; q, k and v may share one.
        block: the file's name of block i, before the module's.
        transposed: modules stored as (in, out), the other way round than nn.Linear.
        ignored: endings of tensors that hold no parameter.
        read_config: config.json as a dict -> GPTConfig.
        write_config: GPTConfig -> the entries of config.json that differ from model to model.
        interleaved: q, k and v rows alternate head by head in the shared tensor, instead of following each other.
    """

    model_type: str
    class_name: str
    prefix: str
    names: Mapping[str, str]
    block: str
    read_config: Callable[[dict], GPTConfig]
    write_config: Callable[[GPTConfig], dict]
    transposed: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()
    interleaved: bool = False

    def source(self, parameter: str) -> tuple[str, int | None]:
        """File tensor that holds `parameter`, without prefix, and which third of it (None: all of it)."""
        *scope, module, kind = parameter.split(".")
        if module == "momentum":  # ours alone
            return f"{self.block.format(scope[1])}.momentum.{kind}", None
        if scope and scope[0] == "blocks":
            ours = ".".join([*scope[2:], module])
            theirs = f"{self.block.format(scope[1])}.{self.names[ours]}.{kind}"
        else:
            ours = module
            theirs = f"{self.names[module]}.{kind}"
        packed = sum(other == self.names[ours] for other in self.names.values()) == 3
        return theirs, ("attn.q_proj", "attn.k_proj", "attn.v_proj").index(ours) if packed else None

    def unpack(self, theirs: str, part: int | None, tensor: Tensor, n_head: int) -> Tensor:
        """Our parameter out of the file's tensor: turned to (out, in), and the third that is asked for."""
        tensor = tensor.T if self._is_transposed(theirs) else tensor
        if part is None:
            return tensor.contiguous()
        if self.interleaved:
            return tensor.unflatten(0, (n_head, 3, -1))[:, part].flatten(0, 1).contiguous()
        return tensor.chunk(3, dim=0)[part].contiguous()

    def pack(self, theirs: str, parts: list[Tensor], n_head: int) -> Tensor:
        """The file's tensor out of our parameter, or out of our q, k and v."""
        if len(parts) == 1:
            tensor = parts[0]
        elif self.interleaved:
            tensor = torch.stack([p.unflatten(0, (n_head, -1)) for p in parts], dim=1).flatten(0, 2)
        else:
            tensor = torch.cat(parts)
        return (tensor.T if self._is_transposed(theirs) else tensor).contiguous()

    def _is_transposed(self, theirs: str) -> bool:
        return theirs.endswith("weight") and any(f".{name}." in theirs for name in self.transposed)


def _activation(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation_function is {name!r}; supported are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _read_xglm(c: dict) -> GPTConfig:
    fairseq = c["vocab_size"] == FAIRSEQ_VOCABULARY  # its special ids are facts of the vocabulary, whatever config says
    return GPTConfig(
        vocab_size=c["vocab_size"],
        n_layer=c["num_layers"],
        n_head=c["attention_heads"],
        n_embd=c["d_model"],
        n_positions=c.get("max_position_embeddings", 2048),
        d_ff=c["ffn_dim"],
        positions="sinusoidal",
        activation=_activation(c.get("activation_function", "gelu")),
        scale_embeddings=c.get("scale_embedding", True),
        tie_embeddings=c.get("tie_word_embeddings", True),
        bos_token_id=50257 if fairseq else c.get("bos_token_id", 0),
        eos_token_id=50259 if fairseq else c.get("eos_token_id", 2),
    )


def _write_xglm(c: GPTConfig) -> dict:
    return {
        "num_layers": c.n_layer,
        "attention_heads": c.n_head,
        "d_model": c.n_embd,
        "ffn_dim": c.mlp_width,
        "max_position_embeddings": c.n_positions,
        "activation_function": c.activation.replace("gelu_tanh", "gelu_new"),
        "scale_embedding": c.scale_embeddings,
        "pad_token_id": 1,  # the class zeroes this row of its position table; any other value shifts positions
    }


def _read_gpt2(c: dict) -> GPTConfig:
    return GPTConfig(
        vocab_size=c["vocab_size"],
        n_layer=c["n_layer"],
        n_head=c["n_head"],
        n_embd=c["n_embd"],
        n_positions=c.get("n_positions", 1024),
        d_ff=c.get("n_inner"),
        positions="learned",
        activation=_activation(c.get("activation_function", "gelu_new")),
        layer_norm_eps=c.get("layer_norm_epsilon", 1e-5),
        tie_embeddings=c.get("tie_word_embeddings", True),
        bos_token_id=c.get("bos_token_id", 50256),
        eos_token_id=c.get("eos_token_id", 50256),
    )


def _write_gpt2(c: GPTConfig) -> dict:
    return {
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_embd": c.n_embd,
        "n_inner": c.d_ff,
        "n_positions": c.n_positions,
        "activation_function": c.activation.replace("gelu_tanh", "gelu_new"),
        "layer_norm_epsilon": c.layer_norm_eps,
    }


def _rope(c: dict) -> dict:
    """What newer files say about rotary positions in one entry, and older ones at the top.

    Raises:
        ValueError: the frequencies are scaled for longer sequences.
    """
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"rope_type is {kind!r}; supported is 'default', rotary positions without scaling")
    return rope


def _read_neox(c: dict) -> GPTConfig:
    rope = _rope(c)
    return GPTConfig(
        vocab_size=c["vocab_size"],
        n_layer=c["num_hidden_layers"],
        n_head=c["num_attention_heads"],
        n_embd=c["hidden_size"],
        n_positions=c.get("max_position_embeddings", 2048),
        d_ff=c["intermediate_size"],
        positions="rotary",
        rotary_fraction=rope.get("partial_rotary_factor", c.get("rotary_pct", 0.25)),
        rotary_base=rope.get("rope_theta", c.get("rotary_emb_base", 10000)),
        activation=_activation(c.get("hidden_act", "gelu")),
        parallel_residual=c.get("use_parallel_residual", True),
        layer_norm_eps=c.get("layer_norm_eps", 1e-5),
        tie_embeddings=c.get("tie_word_embeddings", False),
        bos_token_id=c.get("bos_token_id", 0),
        eos_token_id=c.get("eos_token_id", 2),
    )


def _write_neox(c: GPTConfig) -> dict:
    return {
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "hidden_size": c.n_embd,
        "intermediate_size": c.mlp_width,
        "max_position_embeddings": c.n_positions,
        "rotary_pct": c.rotary_fraction,
        "rotary_emb_base": c.rotary_base,
        "hidden_act": c.activation.replace("gelu_tanh", "gelu_new"),
        "use_parallel_residual": c.parallel_residual,
        "layer_norm_eps": c.layer_norm_eps,
    }


def _read_llama(c: dict, qkv_bias: bool = False) -> GPTConfig:
    supported = {
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "use_sliding_window": False,
        "head_dim": c["hidden_size"] // c["num_attention_heads"],
    }
    for name, value in supported.items():
        if c.get(name, value) not in (value, None):
            raise ValueError(f"{name} is {c[name]!r}; supported is {value!r}")
    eos = c["eos_token_id"][0] if isinstance(c["eos_token_id"], list) else c["eos_token_id"]
    return GPTConfig(
        vocab_size=c["vocab_size"],
        n_layer=c["num_hidden_layers"],
        n_head=c["num_attention_heads"],
        n_kv_head=c.get("num_key_value_heads"),
        n_embd=c["hidden_size"],
        n_positions=c["max_position_embeddings"],
        d_ff=c["intermediate_size"],
        positions="rotary",
        rotary_base=_rope(c).get("rope_theta", c.get("rope_theta", 10000.0)),
        activation="swiglu",
        norm="rms",
        bias=False,
        qkv_bias=qkv_bias,
        layer_norm_eps=c["rms_norm_eps"],
        tie_embeddings=c.get("tie_word_embeddings", False),
        bos_token_id=eos if c.get("bos_token_id") is None else c["bos_token_id"],
        eos_token_id=eos,
    )


def _read_qwen2(c: dict) -> GPTConfig:
    return _read_llama(c, qkv_bias=True)


def _write_llama(c: GPTConfig) -> dict:
    return {
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.key_heads,
        "hidden_size": c.n_embd,
        "intermediate_size": c.mlp_width,
        "max_position_embeddings": c.n_positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rotary_base},
        "hidden_act": "silu",
        "rms_norm_eps": c.layer_norm_eps,
    }


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
    ignored=("embed_positions.weights",),
    read_config=_read_xglm,
    write_config=_write_xglm,
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
        "attn.q_proj": "attn.c_attn",
        "attn.k_proj": "attn.c_attn",
        "attn.v_proj": "attn.c_attn",
        "attn.out_proj": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.up_proj": "mlp.c_fc",
        "mlp.down_proj": "mlp.c_proj",
    },
    transposed=frozenset({"c_attn", "c_proj", "c_fc"}),
    ignored=(".attn.bias", ".attn.masked_bias"),
    read_config=_read_gpt2,
    write_config=_write_gpt2,
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
        "attn.q_proj": "attention.query_key_value",
        "attn.k_proj": "attention.query_key_value",
        "attn.v_proj": "attention.query_key_value",
        "attn.out_proj": "attention.dense",
        "mlp_norm": "post_attention_layernorm",
        "mlp.up_proj": "mlp.dense_h_to_4h",
        "mlp.down_proj": "mlp.dense_4h_to_h",
    },
    ignored=(".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"),
    interleaved=True,
    read_config=_read_neox,
    write_config=_write_neox,
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
    ignored=("rotary_emb.inv_freq",),
    read_config=_read_llama,
    write_config=_write_llama,
)

QWEN2 = replace(LLAMA, model_type="qwen2", class_name="Qwen2ForCausalLM", read_config=_read_qwen2)

LAYOUTS = {layout.model_type: layout for layout in (XGLM, GPT2, NEOX, LLAMA, QWEN2)}
