"""Named models, local folders, GGUF files and Hub ids -> GPT and tokenizer; and back to a folder."""

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from iclnb.attention.precision import emulated, has_bf16
from iclnb.model.architectures import layout_for, read_config, write_config
from iclnb.model.files import CONFIG, INDEX, SHARDS, SINGLE, TOKENIZER, Folder, blob_of, check, damaged, state_of
from iclnb.model.gpt import GPT
from iclnb.model.layouts import CheckpointError, Layout
from iclnb.model.tokenizer_files import check_tokenizer, read_tokenizer
from iclnb.paths import EMBEDDED, cache_folder, chosen_model, data_folder, local_path, staged, sync

if TYPE_CHECKING:
    from iclnb.model.gguf_files import GGUFFile

HUB_IDS = {f"fairseq-dense-{size}": f"KoboldAI/fairseq-dense-{size}" for size in ("125M", "355M", "1.3B", "2.7B")} | {
    name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
}
FETCHED = ("smollm2",)  # models that `python -m iclnb fetch` puts into the cache folder
DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load(
    name: str | Path = "auto", device: str = "auto", dtype: str | torch.dtype = "auto", revision: str = "main"
) -> tuple[GPT, Any]:
    """Load a GPT and its tokenizer.

    Args:
        name: "pocket-gpt"; "smollm2", once `python -m iclnb fetch smollm2` has fetched it; a short name
            ("fairseq-dense-1.3B", "gpt2", ...); a local folder in the Hub's layout or a Hub id "owner/name" of a
            supported architecture (XGLM, GPT-2, GPT-NeoX, Llama, Qwen2, Qwen3, SmolLM3, OLMo 2); a GGUF file (Llama,
            Qwen2, GPT-2), or a folder with one; "auto" is what the environment variable ICLNB_MODEL says, else
            "pocket-gpt".
        device: "auto" (the GPU if there is one; for pocket-gpt the CPU), or a torch device.
        dtype: "auto" (float32 on a CPU; on a GPU bfloat16, or float16 where it has none; for pocket-gpt on a CPU
            float64, so that what is computed with it comes out the same on every machine), or "float32", "float64",
            "float16", "bfloat16", or torch's own; files of any float dtype are converted tensor by tensor.
        revision: branch, tag or commit on the Hub; not used for a folder.

    Returns:
        The model in eval mode, and the tokenizer (a transformers tokenizer).

    Raises:
        CheckpointError: the checkpoint cannot be had, or cannot be used.
        ValueError: an unknown device or dtype.
    """
    name = chosen_model() if name == "auto" else name
    if name == EMBEDDED and device == "auto":
        device = "cpu"
    place = resolve_device(device)
    if name == EMBEDDED and dtype == "auto" and place.type == "cpu":
        dtype = "float64"
    number = resolve_dtype(dtype, place)
    if emulated(number, place):  # Python itself says the same text from the same line once
        name_of = str(number).removeprefix("torch.")
        warnings.warn(f"dtype is {name_of}, which this CPU only emulates; float32 is many times faster", stacklevel=1)
    folder = find_folder(name, revision)
    before = state_of(folder)
    model, tokenizer = load_model(folder, place, number), load_tokenizer(folder)
    if state_of(folder) != before:
        raise CheckpointError(f"{folder} was written to while it was read; load it again")
    check_tokenizer(tokenizer, model.config.vocab_size, folder)
    return model, tokenizer


def resolve_device(device: str) -> torch.device:
    """The device that `device` names; "auto" is the GPU if there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {"cpu": 1, "cuda": torch.cuda.is_available() and torch.cuda.device_count()}
    there["mps"] = torch.backends.mps.is_available()
    try:
        found = torch.device(device)
        devices = there[found.type]
    except (RuntimeError, TypeError, KeyError) as error:
        raise ValueError(f"device is {device!r}; accepted are 'auto', 'cpu', 'cuda', 'cuda:1' and 'mps'") from error
    if (found.index or 0) >= devices:
        seen = f"{int(devices)} of this kind" if devices else "no GPU of this kind"
        raise ValueError(f"device is {device!r}, but this machine's torch sees {seen}; use 'cpu' or 'auto'")
    return found


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype that `dtype` names; "auto" is float32 on a CPU and a 16-bit format on a GPU."""
    if dtype == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if has_bf16(device) else torch.float16
    if dtype in DTYPES.values():
        return dtype
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; accepted are 'auto', {', '.join(map(repr, DTYPES))}")
    return DTYPES[dtype]


def find_folder(name: str | Path, revision: str = "main") -> Path:
    """The local folder of a checkpoint, fetched from the Hub where needed, or its GGUF file.

    Raises:
        CheckpointError: no such embedded model, folder, file or Hub repository; no network; or a model of the cache
            folder that has not been fetched.
    """
    if name == EMBEDDED:
        return data_folder() / name
    if name in FETCHED:
        if not ((folder := cache_folder() / name) / "config.json").is_file():
            raise CheckpointError(f"{name} is not in {folder} yet; this fetches it: python -m iclnb fetch {name}")
        return folder
    if os.path.exists(place := local_path(name)):  # unlike Path's, for any name
        for file in damaged(place) if place.is_dir() else []:
            raise CheckpointError(f"{blob_of(file)}, which is {file}, is damaged; delete it, and fetch the model again")
        return place
    hub_id = HUB_IDS.get(str(name), str(name))
    local = Path(name).is_absolute() or str(name).startswith((".", "~")) or str(name).endswith(".gguf")
    if hub_id.count("/") != 1 or local:
        known = ", ".join([EMBEDDED, *FETCHED, *HUB_IDS])
        raise CheckpointError(
            f"model is {str(name)!r}: neither a folder nor a file here; known are {known}, a folder, a GGUF file, or a "
            f"Hub id owner/name"
        )
    from iclnb.model.hub import download  # the Hub's client takes half a second to import

    return download(hub_id, revision)


def load_model(folder: Path, device: torch.device, dtype: torch.dtype) -> GPT:
    """A GPT whose parameters come one by one from safetensors files or a GGUF file, straight to device and dtype.

    Raises:
        CheckpointError: no config.json or weights, an unsupported architecture or quantisation, or files that are
            incomplete or corrupt.
    """
    source = _open_checkpoint(folder)
    try:
        layout, config = read_config(source.config)
    except KeyError as error:
        raise CheckpointError(f"{source.said_in} lacks the entry {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{source.said_in}: {error}") from error
    if config.n_layer > len(source.files):
        raise CheckpointError(f"{source.said_in} says {config.n_layer} layers, more than {folder} holds tensors")
    try:
        with torch.device("meta"):
            model = GPT(replace(config, tie_embeddings=layout.is_tied(config, source)))  # shapes only
    except (TypeError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"{source.said_in} says a shape that no model has ({_line(error)})") from error
    _fill(model, layout, source, device, dtype)
    return model.eval()


def _gguf_in(place: Path) -> Path | None:
    """The GGUF file that a path means: the file itself, or the only one in a folder without config.json; else None.

    Raises:
        CheckpointError: a file of another kind, or a folder with several.
    """
    if place.is_file():
        return place
    files = sorted(place.glob("*.gguf"))
    if not files or any((place / name).is_file() for name in (CONFIG, SINGLE, INDEX)):  # the others: a save cut short
        return None
    if len(files) > 1:
        raise CheckpointError(f"{place} holds {len(files)} GGUF files, {files[0].name} and others; pass one of them")
    return files[0]


def _open_checkpoint(place: Path) -> "Folder | GGUFFile":
    """What holds a checkpoint's configuration and tensors."""
    if (file := _gguf_in(place)) is None:
        return Folder(place)
    from iclnb.model.gguf_files import GGUFFile  # its package takes long to import, and most models do without

    check(file.resolve() if file == place else file)  # a link that the user names is followed
    return GGUFFile(file)


def _fill(model: GPT, layout: Layout, source: "Folder | GGUFFile", device: torch.device, dtype: torch.dtype) -> None:
    """Give every parameter of a model on the meta device its tensor from the source."""
    where, folder = source.files, source.place
    found = {name.removeprefix(layout.prefix): name for name in where}
    embedding, head = (layout.source(name)[0] for name in ("embed_tokens.weight", "lm_head.weight"))
    if model.config.tie_embeddings and head in found:
        found.setdefault(embedding, found[head])  # one table under either name
    wanted: list[tuple[str, str, int | None]] = []
    parameters = dict(model.named_parameters())
    for ours in parameters:
        theirs, part = layout.source(ours)
        if theirs not in found:
            raise CheckpointError(f"{folder} lacks the tensor {layout.prefix}{theirs}")
        wanted.append((ours, theirs, part))
    unused = set(found) - {layout.source(name)[0] for name in parameters} - {head}
    for name in sorted(unused):
        if not name.endswith(layout.ignored):
            raise CheckpointError(f"{folder} holds the tensor {found[name]}, which this architecture has no place for")
    for ours, theirs, part in wanted:
        tensor = layout.unpack(theirs, part, source.tensor(found[theirs]), model.config.n_head)
        if tensor.shape != parameters[ours].shape:
            shape, expected = tuple(tensor.shape), tuple(parameters[ours].shape)
            file, said_in = where[found[theirs]].name, source.said_in.name
            raise CheckpointError(f"{found[theirs]} in {file} gives {shape} where {said_in} says {expected}")
        # A copy, since a tensor of a safetensors file is that file's own memory, and changes when it is written over.
        _assign(model, ours, tensor.to(device=device, dtype=dtype, copy=True))
    if model.config.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight


def _assign(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    module_name, _, parameter = name.rpartition(".")
    setattr(model.get_submodule(module_name), parameter, nn.Parameter(tensor))


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder` or in a GGUF file; errors as in read_tokenizer."""
    if (file := _gguf_in(folder)) is not None:
        from iclnb.model.gguf_files import gguf_tokenizer

        return gguf_tokenizer(file)
    for name in (CONFIG, *TOKENIZER):
        if os.path.lexists(folder / name):
            check(folder / name)
    return read_tokenizer(folder)


def _line(error: Exception) -> str:
    """What another library's error says, on one line of readable length."""
    return " ".join(str(error).split())[:200]


def save(model: GPT, tokenizer: Any, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a checkpoint in the Hub's layout, which transformers loads too.

    The layout follows the configuration: XGLM, GPT-2, GPT-NeoX, Llama, Qwen2, Qwen3, SmolLM3 or OLMo 2. All files are
    written in a folder beside their places. Then the earlier config.json is taken away, with shards and tokenizer files
    that would go with it; the files are moved, and the new config.json comes last. So a save that fails leaves the
    earlier checkpoint, and one that is killed leaves the earlier checkpoint or a folder without config.json, which
    nobody loads.

    Args:
        model, tokenizer: what to save; tokenizer may be None, and then the folder's own stays.
        folder: made if missing; of two processes, one waits for the other.
        dtype: of the file; None keeps the model's.

    Raises:
        ValueError: no layout holds the model's configuration.
        OSError: the folder cannot be written to, or the disk is full.
    """
    folder, config = local_path(folder), model.config
    layout = layout_for(config)
    parts: dict[str, list[torch.Tensor]] = {}
    for ours, parameter in model.named_parameters():
        parts.setdefault(layout.source(ours)[0], []).append(parameter.detach().to("cpu", dtype))  # q, k, v in order
    head = layout.source("lm_head.weight")[0]
    tensors = {
        (name if name == head else layout.prefix + name): layout.pack(name, tensors, config.n_head)
        for name, tensors in parts.items()
    }
    entries = {
        **write_config(layout, config),
        "dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch."),
    }
    moving = False
    try:
        with staged(folder) as beside:
            if tokenizer is not None:
                _save_tokenizer(tokenizer, beside)
            save_file(tensors, beside / SINGLE, metadata={"format": "pt"})
            (beside / CONFIG).write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")
            for file in beside.iterdir():
                sync(file)
            moving = True
            _move(beside, folder)
    except (OSError, SafetensorError) as error:
        now = "the checkpoint there is not whole; save it again" if moving else "what was there before is untouched"
        raise OSError(f"a checkpoint could not be written to {folder} ({error}); {now}") from error


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # the library has no kind of its own for a full disk
        raise OSError(f"the tokenizer: {error}") from error


def _move(beside: Path, folder: Path) -> None:
    """Put the files of a whole checkpoint in the place of the one in `folder`."""
    names = {file.name for file in beside.iterdir()}
    replaced = [folder / INDEX, *folder.glob(SHARDS)]
    if names.intersection(TOKENIZER):
        replaced += [folder / name for name in TOKENIZER if name not in names]
    (folder / CONFIG).unlink(missing_ok=True)
    for name in sorted(names - {CONFIG}):
        os.replace(beside / name, folder / name)
    for old in replaced:
        old.unlink(missing_ok=True)
    os.replace(beside / CONFIG, folder / CONFIG)
