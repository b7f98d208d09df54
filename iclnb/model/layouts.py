"""How a checkpoint of the Hub says a GPT's shape and holds its weights: config.json and tensors, in and out.

A layout maps entries of config.json to fields of GPTConfig, and our parameters to tensors of the file; both maps are
read both ways. What config.json says is honoured, known not to matter, or refused by name.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from iclnb.model.gpt import GPTConfig
from iclnb.model.positions import RotaryScaling

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh"}
FAIRSEQ_VOCABULARY = 50261  # GPT-2's 50257 entries, then <s>, <pad>, </s>, <unk>
SPELLED_OUT = {"mlp_width": "d_ff", "key_heads": "n_kv_head", "head_dim": "d_head"}  # property -> field it is read into
PACKED = ("attn.q_proj", "attn.k_proj", "attn.v_proj")  # one tensor of some files holds all three, in this order
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of tensors that are weights as they stand

WHOLE, REAL, YES_NO = (
    (int, "a whole number from {:,} to {:,}"),
    (float, "a number from {:g} to {:g}"),
    (bool, "true or false"),
)
VALUES = {  # field of GPTConfig or entry -> what it may be; the bounds are far beyond any model, and end in good time
    "vocab_size": (*WHOLE, 1, 10**8),
    "n_layer": (*WHOLE, 1, 1000),
    "n_head": (*WHOLE, 1, 10**5),
    "n_embd": (*WHOLE, 1, 10**6),
    "n_positions": (*WHOLE, 1, 10**9),
    "d_ff": (*WHOLE, 1, 10**7),
    "n_kv_head": (*WHOLE, 1, 10**5),
    "d_head": (*WHOLE, 1, 10**5),
    "layer_norm_eps": (*REAL, 0, 1),
    "scale_embeddings": (*YES_NO, False, True),
    "parallel_residual": (*YES_NO, False, True),
    "tie_embeddings": (*YES_NO, False, True),
    "rotary_base": (*REAL, 1, 1e30),
    "rotary_fraction": (*REAL, 0, 1),
    "factor": (*REAL, 1, 1e6),
    "low_freq_factor": (*REAL, 1e-6, 1e6),
    "high_freq_factor": (*REAL, 1e-6, 1e6),
    "original_max_position_embeddings": (*WHOLE, 1, 10**9),
    "no_rope_layer_interval": (*WHOLE, 1, 10**9),
    "momentum": (*REAL, 0, 1),
    "learn_momentum": (*YES_NO, False, True),
}
MAY_BE_NULL = ("d_ff", "n_kv_head", "d_head")
SUPPORTED = {  # entry -> the only values that we have code for, the first where it is absent; for every architecture
    "quantization_config": (None,),
    "compression_config": (None,),
    "per_layer_config": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
}


class CheckpointError(ValueError):
    """A checkpoint that is unknown, unsupported, incomplete or corrupt."""


def checked(entry: str, value: Any, kind: str) -> Any:
    """The value of an entry, once it is of its kind.

    Raises:
        ValueError: it is not.
    """
    type_, called, least, most = VALUES[kind]
    known = type(value) is type_ or (type_ is float and type(value) is int)
    if not (known and least <= value <= most) and not (value is None and kind in MAY_BE_NULL):
        raise ValueError(f"{entry} is {reprlib.repr(value)}; it must be {called.format(least, most)}")
    return value


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
        supported: as SUPPORTED, for this architecture; of a list, all members must be among the values.
        aliases: other names of entries, which count more than their own.
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
    supported: Mapping[str, tuple] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[str, Any] = field(default_factory=dict)
    transposed: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()
    interleaved: bool = False

    def read(self, raw: dict) -> GPTConfig:
        """The configuration, of plain attention, that a config.json says; errors as in read_config."""
        said = raw | {entry: raw[alias] for alias, entry in self.aliases.items() if alias in raw}
        given = dict(self.implied)
        if given["positions"] == "rotary":
            said, given["rotary_scaling"] = self._rope(said)
        self._check_supported(said)
        for entry, (ours, *default) in self.entries.items():
            value = said.get(entry, *default) if default else said[entry]
            given[SPELLED_OUT.get(ours, ours)] = self._value(entry, value, SPELLED_OUT.get(ours, ours))
        for token in ("bos_token_id", "eos_token_id"):
            if token not in said and (given[token] or 0) >= given["vocab_size"]:
                given[token] = None  # the architecture's own, of another vocabulary
        if self.model_type == "xglm" and given["vocab_size"] == FAIRSEQ_VOCABULARY:
            given |= {"bos_token_id": 50257, "eos_token_id": 50259}  # facts of the vocabulary, whatever it says
        if given.get("d_head") == given["n_embd"] / given["n_head"]:
            given["d_head"] = None  # as where the file does not say it
        if "rotary_layers" in given:
            given["rotary_layers"] = _rotary_layers(said, given["n_layer"])
        try:
            config = GPTConfig(**given)
        except ValueError as error:
            theirs = {SPELLED_OUT.get(ours, ours): entry for entry, (ours, *_) in self.entries.items()}
            raise ValueError(" ".join(theirs.get(word, word) for word in str(error).split(" "))) from error
        if said.get("head_dim") not in (None, config.head_dim):
            raise ValueError(f"head_dim is {reprlib.repr(said['head_dim'])}; supported is {config.head_dim!r}")
        return config

    def write(self, c: GPTConfig) -> dict:
        """The entries of config.json that say a configuration, but for its momentum."""
        entries = {"model_type": self.model_type, "architectures": [self.class_name], **self.written}
        for entry, (ours, *_) in self.entries.items():
            value = getattr(c, ours)
            entries[entry] = value.replace("gelu_tanh", "gelu_new") if ours == "activation" else value
        if "no_rope_layers" in entries:
            entries["no_rope_layers"] = [int(c.rotates(layer)) for layer in range(c.n_layer)]
        if "rope_theta" in entries or c.rotary_scaling is not None:  # where newer files have it
            kind = (
                {"rope_type": "default"}
                if c.rotary_scaling is None
                else {"rope_type": "llama3"} | vars(c.rotary_scaling)
            )
            entries["rope_parameters"] = kind | {"rope_theta": entries.pop("rope_theta", c.rotary_base)}
        return entries

    def _value(self, entry: str, value: Any, ours: str) -> Any:
        """What an entry says of a field of GPTConfig."""
        if ours == "activation":
            if not isinstance(value, str) or value not in ACTIVATIONS:
                raise ValueError(f"{entry} is {reprlib.repr(value)}; supported are {', '.join(ACTIVATIONS)}")
            return ACTIVATIONS[value]
        if ours in ("bos_token_id", "eos_token_id"):  # which GPTConfig checks
            return value[0] if isinstance(value, list) and value else value  # Llama 3 lists the ends of text and turn
        return value if ours == "rotary_layers" else checked(entry, value, ours)

    def _check_supported(self, said: dict) -> None:
        for entry, known in (SUPPORTED | self.supported).items():
            value = said.get(entry, known[0])
            for member in value if isinstance(value, list) and entry == "layer_types" else [value]:
                if not any(member == k and isinstance(member, bool) == isinstance(k, bool) for k in known):
                    accepted = " or ".join(map(repr, known))
                    raise ValueError(f"{entry} is {reprlib.repr(value)}; supported is {accepted}")

    def _rope(self, said: dict) -> tuple[dict, RotaryScaling | None]:
        """A config.json with what newer files say about rotary positions at the top, as in older ones; and the scaling.

        Raises:
            KeyError, ValueError: as in read_config.
        """
        name = "rope_scaling" if said.get("rope_scaling") else "rope_parameters"
        rope = said.get(name) or {}
        if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
            raise ValueError(f"{name} is {reprlib.repr(rope)}; it must be one rule for all layers, or null")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "llama3"):
            raise ValueError(
                f"rope_type is {reprlib.repr(kind)}; supported are 'default', without scaling, and 'llama3'"
            )
        older = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}  # in GPT-NeoX
        top = said | {(older[e] if older[e] in self.entries else e): rope[e] for e in older if e in rope}
        if kind == "default":
            return top, None
        length = "original_max_position_embeddings"  # which counts most at the top
        rope = {length: said.get("max_position_embeddings")} | rope | {e: said[e] for e in said if e == length}
        return top, RotaryScaling(**{f.name: checked(f.name, rope[f.name], f.name) for f in fields(RotaryScaling)})

    def is_tied(self, config: GPTConfig, source: Any) -> bool:
        """Whether the embedding table is the output projection too: as config.json says, but for two that differ.

        So does transformers.

        Args:
            config: from `read`.
            source: an opened checkpoint, with `files` and `tensor(name)`.
        """
        stored = {name.removeprefix(self.prefix): name for name in source.files}
        both = [stored.get(self.source(parameter)[0]) for parameter in ("embed_tokens.weight", "lm_head.weight")]
        return config.tie_embeddings and (None in both or torch.equal(*map(source.tensor, both)))

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
        """Our parameter out of the file's tensor: turned to (out, in), and the third that is asked for.

        Raises:
            CheckpointError: the tensor holds no floating-point numbers as they stand; it is quantised, say.
        """
        if tensor.dtype not in FLOATS:
            kind, known = (
                str(tensor.dtype).removeprefix("torch."),
                ", ".join(str(d).removeprefix("torch.") for d in FLOATS),
            )
            raise CheckpointError(f"{theirs} is stored as {kind}; supported are {known}")
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


def _rotary_layers(said: dict, n_layer: int) -> tuple[bool, ...]:
    """Which layers rotate, in SmolLM3: what no_rope_layers says (1 is yes), else all but each fourth or so."""
    layers = said.get("no_rope_layers")
    if layers is None:
        name = "no_rope_layer_interval"
        step = checked(name, said.get(name, 4), name)
        return tuple((layer + 1) % step != 0 for layer in range(n_layer))
    if not isinstance(layers, list) or len(layers) < n_layer or not all(type(x) is int and x in (0, 1) for x in layers):
        raise ValueError(f"no_rope_layers is {reprlib.repr(layers)}; it must be {n_layer} times 0 or 1, or null")
    return tuple(map(bool, layers[:n_layer]))
