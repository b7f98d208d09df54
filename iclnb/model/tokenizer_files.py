"""Tokenizer files of the Hub, read so that text becomes the tokens that the model was trained with."""

import json
import warnings
from pathlib import Path
from typing import Any

from iclnb.model.layouts import CheckpointError

GUESSED = {"qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer"}  # model_type -> class of vocab.json and merges.txt
PROBE = "a text"


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder, through transformers and never with code from the checkpoint.

    tokenizer.json says all by itself, and is taken as it stands: a class of transformers that tokenizer_config.json or
    the architecture names would put its own rules in the place of some of the file's (of SmolLM2's, which splits
    numbers into digits). vocab.json and merges.txt need a class.

    Raises:
        CheckpointError: there is none, or it cannot be read or used.
    """
    import transformers

    whole, halves = folder / "tokenizer.json", [folder / "vocab.json", folder / "merges.txt"]
    if not whole.is_file() and not all(half.is_file() for half in halves):
        raise CheckpointError(f"{folder} holds no tokenizer: neither tokenizer.json nor vocab.json and merges.txt")
    try:
        name = "PreTrainedTokenizerFast" if whole.is_file() else _class_name(folder)
        reads = getattr(transformers, name, None)
        if not (isinstance(reads, type) and issubclass(reads, transformers.PreTrainedTokenizerBase)):
            raise ValueError(f"tokenizer_class is {name!r}, which is no tokenizer of transformers")
        tokenizer = reads.from_pretrained(str(folder), local_files_only=True)
        tokenizer.decode(tokenizer([PROBE])["input_ids"][0])  # some wrong options show only in use
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # transformers raises many kinds here, and a panic of tokenizers is no Exception
        raise unreadable(folder, error) from error
    return tokenizer


def unreadable(place: Path, error: BaseException) -> CheckpointError:
    """What is said of a tokenizer that transformers raises an error for: its first line."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(f"{place} holds no tokenizer that transformers can read ({reason})")


def _class_name(folder: Path) -> str:
    """The class that reads vocab.json and merges.txt: what the files say, else a guess, which is said."""
    said = {}
    for file in (folder / "config.json", folder / "tokenizer_config.json"):
        said |= json.loads(file.read_text()) if file.is_file() else {}
    if (name := said.get("tokenizer_class")) is not None:
        return name.removesuffix("Fast")
    guess = GUESSED.get(said.get("model_type"), "GPT2Tokenizer")
    warnings.warn(
        f"{folder / 'tokenizer_config.json'} names no tokenizer_class; vocab.json and merges.txt are read by {guess}",
        stacklevel=4,
    )
    return guess


def check_tokenizer(tokenizer: Any, rows: int, place: Path) -> None:
    """Check that the embedding table has a row for each id of the tokenizer; rows without an id are usual.

    Raises:
        CheckpointError: it has not.
    """
    if (highest := max(tokenizer.get_vocab().values(), default=0)) >= rows:
        raise CheckpointError(
            f"{place} holds a tokenizer with ids up to {highest}, but its embedding table has {rows} rows, the "
            f"vocab_size of its configuration"
        )
