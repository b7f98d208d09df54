"""GGUF, the one-file checkpoints of llama.cpp: metadata read as a config.json, tensors as the Hub's own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, GGUFValueType, dequantize, get_tensor_name_map
from gguf.constants import GGML_QUANT_SIZES, MODEL_ARCH_NAMES
from torch import Tensor

from iclnb.model.architectures import LAYOUTS
from iclnb.model.layouts import CheckpointError, Layout
from iclnb.model.tokenizer_files import unreadable

MAGIC = b"GGUF"
ROTARY = {  # entry of config.json -> key of the metadata, after the architecture's name
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
ARCHITECTURES = {
    "llama": ROTARY,
    "qwen2": ROTARY,
    "gpt2": {
        "n_layer": "block_count",
        "n_head": "attention.head_count",
        "n_embd": "embedding_length",
        "n_inner": "feed_forward_length",
        "n_positions": "context_length",
        "layer_norm_epsilon": "attention.layer_norm_epsilon",
    },
}
HEAD_WIDTHS = ("attention.key_length", "attention.value_length", "rope.dimension_count")  # all D, where they are told
LEFT_OUT = ("attention.head_count_kv", "rope.freq_base", *HEAD_WIDTHS)  # keys that a file may lack
FRACTIONS = ("epsilon", "freq_base")  # how the keys of numbers end that are not whole
DIGIT_BY_DIGIT = ("smollm", "starcoder", "refact", "command-r")  # pre-tokenizers that take digits one by one


class GGUFFile:
    """An opened GGUF file of an architecture that we have code for.

    Tensors stay on the disk until they are asked for, so that a model needs its own memory and no second copy.

    Attributes:
        place, said_in: the file, which holds tensors and metadata.
        config: what a config.json of the Hub says of this model.
        files: tensor, as the Hub calls it -> the file; one that has no place in the layout keeps its own name.

    Raises:
        CheckpointError: not a GGUF file, cut short or damaged; an architecture, a variant or a quantisation that is
            not supported; metadata that is missing or makes no sense.
    """

    def __init__(self, file: Path):
        self.place = self.said_in = file
        self._reader = _open(file)
        self.config = self._read_config()
        self._layout = LAYOUTS[self.config["model_type"]]
        found = {tensor.name: tensor for tensor in self._reader.tensors}
        hub = _hub_names(self._layout, self._number("block_count"))
        self._tensors = {hub.get(name, name): tensor for name, tensor in found.items()}
        self.files = dict.fromkeys(self._tensors, file)
        self._check_types()

    def tensor(self, name: str) -> Tensor:
        """A tensor by its Hub name, dequantised: float32, in the order in which a file of the Hub has it."""
        stored = self._tensors[name]
        with np.errstate(all="ignore"):  # what is not finite is said below
            array = np.require(dequantize(stored.data, stored.tensor_type), np.float32, ["C", "W"])
        tensor = torch.from_numpy(array)
        if not tensor.isfinite().all():
            raise CheckpointError(f"{self.place} is damaged: {stored.name} holds numbers that are not finite")
        if self._layout.model_type == "llama" and name.endswith((".q_proj.weight", ".k_proj.weight")):
            heads = self.config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
            tensor = _halves(tensor, heads)
        return tensor.T if self._layout.is_transposed(name) else tensor  # GGUF has all of them as (out, in)

    def _value(self, key: str) -> Any:
        """A metadata value, None where there is none."""
        field = self._reader.fields.get(key)
        if field is None:
            return None
        if field.types[0] == GGUFValueType.ARRAY:
            raise CheckpointError(f"{self.place}: {key} is a list; supported is one value for all layers")
        try:
            return field.contents()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.place} is damaged: {key} holds bytes that are no text") from error

    def _number(self, key: str) -> Any:
        """A number above 0 from the architecture's part of the metadata, None where it may be left out and is."""
        known = f"{self._value('general.architecture')}.{key}"
        value = self._value(known)
        if value is None and key not in LEFT_OUT:
            raise CheckpointError(f"{self.place} lacks the metadata {known}")
        wanted, called = (float, "a number") if key.endswith(FRACTIONS) else (int, "a whole number")
        if value is not None and not (isinstance(value, wanted) and 0 < value < float("inf")):
            raise CheckpointError(f"{self.place}: {known} is {value!r}; it must be {called} above 0")
        return value

    def _read_config(self) -> dict[str, Any]:
        kind = self._value("general.architecture")
        if kind not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise CheckpointError(f"{self.place}: general.architecture is {kind!r}; supported are {known}")
        if (parts := self._value("split.count")) not in (None, 0, 1):
            raise CheckpointError(f"{self.place} is one of {parts} parts of a model; supported are files of one part")
        config = {"model_type": kind} | {entry: self._number(key) for entry, key in ARCHITECTURES[kind].items()}
        shapes = {tensor.name: tensor.shape.tolist() for tensor in self._reader.tensors}
        if len(shapes.get("token_embd.weight", [])) != 2:
            raise CheckpointError(f"{self.place} lacks the tensor token_embd.weight, or it is no table")
        config["vocab_size"] = shapes["token_embd.weight"][1]
        config["tie_word_embeddings"] = "output.weight" not in shapes
        for entry in ("bos_token_id", "eos_token_id"):
            config[entry] = self._value(f"tokenizer.ggml.{entry}")  # None where the vocabulary has none
        self._check_blocks(shapes)
        if ARCHITECTURES[kind] is ROTARY:
            self._check_heads(kind, config)
            scaling = self._value(f"{kind}.rope.scaling.type") or "none"
            if "rope_freqs.weight" in shapes:
                raise CheckpointError(
                    f"{self.place} scales its rotary positions by rope_freqs.weight; supported is none"
                )
            config["rope_scaling"] = None if scaling == "none" else {"type": scaling}  # which the layout refuses
            config["num_key_value_heads"] = config["num_key_value_heads"] or config["num_attention_heads"]
            config["rope_theta"] = config["rope_theta"] or 10000.0
        return config

    def _check_blocks(self, shapes: dict[str, list[int]]) -> None:
        """Damaged metadata may promise any number of layers, and making them takes long."""
        blocks = {name.split(".")[1] for name in shapes if name.startswith("blk.")}
        if len(blocks) != self._number("block_count"):
            said = self._number("block_count")
            raise CheckpointError(f"{self.place}: block_count is {said}, but it holds tensors of {len(blocks)} blocks")

    def _check_heads(self, kind: str, config: dict[str, Any]) -> None:
        width, heads = config["hidden_size"], config["num_attention_heads"]
        for key in HEAD_WIDTHS:
            value = self._number(key)
            if value is not None and value * heads != width:
                supported = f"supported is embedding_length / head_count, {width / heads:g}"
                raise CheckpointError(f"{self.place}: {kind}.{key} is {value}; {supported}")

    def _check_types(self) -> None:
        """Every quantisation is tried on one block of zeros, before long work starts."""
        for kind, name in {tensor.tensor_type: tensor.name for tensor in self._reader.tensors}.items():
            try:
                dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
            except NotImplementedError as error:
                raise CheckpointError(
                    f"{self.place}: {name} is stored as {kind.name}; supported are F32, F16, BF16 and the "
                    f"quantisations that the package gguf can undo"
                ) from error


def gguf_tokenizer(file: Path) -> Any:
    """The tokenizer that a GGUF file's metadata describe, through transformers.

    Raises:
        CheckpointError: it cannot be read.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    fields = _open(file).fields
    field = fields.get("tokenizer.ggml.pre")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name, local_files_only=True)
        if field is not None and field.contents() in DIGIT_BY_DIGIT:  # transformers knows only some by their names
            split = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
            tokenizer.backend_tokenizer.pre_tokenizer = split
        if len(tokenizer) > (own := len(fields["tokenizer.ggml.tokens"].data)):
            tokenizer = _without_added(tokenizer, own)
    except Exception as error:  # transformers raises many kinds here, some of several lines
        raise unreadable(file, error) from error
    return tokenizer


def _without_added(tokenizer: Any, own: int) -> Any:
    """The tokenizer with its first `own` tokens: transformers adds GPT-2's <|endoftext|> to files without it, whose
    embedding table has no row for it."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < own]
    special = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    same = special | {"chat_template": tokenizer.chat_template}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **same)


def _hub_names(layout: Layout, blocks: int) -> dict[str, str]:
    """GGUF's name of each tensor that the layout has a place for -> the Hub's."""
    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == layout.model_type)
    table, names = get_tensor_name_map(arch, blocks), {}
    for module in dict.fromkeys(layout.names.values()):
        for i in range(blocks):
            for hub in (module, layout.prefix + module, f"{layout.prefix}{layout.block.format(i)}.{module}"):
                if theirs := table.get_name(hub):
                    names |= {f"{theirs}.{kind}": f"{hub}.{kind}" for kind in ("weight", "bias")}
    return names


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Query or key rows of Llama as the Hub has them: the two numbers that rotate together are D / 2 rows apart.

    llama.cpp puts them next to each other. A weight (H D, C) of another shape is left for the layout to refuse.
    """
    if weight.dim() != 2 or len(weight) % (2 * heads):
        return weight
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)  # (H, D/2, 2, C) -> (H, 2, D/2, C)


def _open(file: Path) -> "_Reader":
    """The file's metadata and tensors, read by the gguf package.

    Raises:
        CheckpointError: it cannot be read, is no GGUF file, or is cut short or damaged.
    """
    try:
        with file.open("rb") as start:
            kind = start.read(len(MAGIC))
        if kind != MAGIC:
            raise CheckpointError(f"{file} is not a GGUF file: it does not begin with the letters GGUF")
        reader = _Reader(file)
    except CheckpointError:
        raise
    except Exception as error:  # the package checks little, and damaged bytes lead it into many kinds of error
        raise CheckpointError(f"{file} is damaged or cut short ({error}); fetch it again") from error
    if reader.byte_order != "I":
        raise CheckpointError(f"{file} is written for machines of the other byte order")
    return reader


class _Reader(GGUFReader):
    """The package's reader, which goes past lists (a vocabulary takes it seconds) and never past the end."""

    def _get(self, offset: int, dtype: Any, count: int = 1, *rest: Any, **more: Any) -> np.ndarray:
        if offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
            raise ValueError(f"it says that more follows than its {len(self.data):,} bytes")
        return super()._get(offset, dtype, count, *rest, **more)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind, length = GGUFValueType(self._get(orig_offs, np.uint32)[0]), self._get(orig_offs + 4, np.uint64)
        end = orig_offs + 12
        if kind == GGUFValueType.STRING:
            for _ in range(int(length[0])):
                end += 8 + int(self._get(end, np.uint64)[0])
        else:
            end += int(length[0]) * np.dtype(self.gguf_scalar_to_np[kind]).itemsize
        return end - orig_offs, [length], [0], [GGUFValueType.ARRAY, kind]
