"""A text dataset of the Hub to train on, downloaded as it is read and never kept.

Letters: B sequences of T tokens.
"""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iclnb.text import TextError, as_batch, check_sizes, encode

HELD_OUT = 500  # documents of each process that training never sees
DOCUMENTS = 32  # tokenised at a time


def open_stream(dataset: str, split: str, rank: int, processes: int) -> Any:
    """The documents of one process, as a datasets.IterableDataset.

    Files are shared out where their number allows it; otherwise each process reads all and keeps its own documents.

    Raises:
        TextError: there is no such dataset, subset or split, or no network.
    """
    from datasets import load_dataset
    from datasets.distributed import split_dataset_by_node

    name, _, subset = (dataset, "", "") if Path(dataset).is_dir() else dataset.partition(":")
    try:
        documents = load_dataset(name, subset or None, split=split, streaming=True)
    except Exception as error:  # the client raises a family of network, offline and not-found errors
        said = str(error).splitlines()[0] if str(error) else "no reason given"
        raise TextError(f"dataset is {dataset!r} with split {split!r}, which cannot be read ({said})") from error
    return split_dataset_by_node(documents, rank, processes)


def hub_tokenizer(name: str) -> Any:
    """A fast tokenizer of the Hub, or of a folder.

    Raises:
        TextError: there is none, no network, or it has no token that separates documents.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # the client raises a family of network, offline and not-found errors
        raise TextError(f"tokenizer is {name!r}, which cannot be had ({type(error).__name__})") from error
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise TextError(f"tokenizer is {name!r}; a fast one with an end-of-text token is needed")
    return tokenizer


class TextStream:
    """A text dataset as batches: documents behind each other, a separator before each, cut into rows of T + 1 tokens.

    Every process reads documents of its own, of which the first are held out. At its end the dataset is read again, its
    files in another order. Steps can only be asked for one after the other.

    Args:
        dataset: Hub id "owner/name" or "owner/name:subset", or a folder of text, JSON or parquet files.
        tokenizer: a fast transformers tokenizer; its `<s>`, or where it has none its `</s>`, separates documents.
        context: T.
        batch: B, rows of a step, over all processes; a multiple of their number.
        split, field: which split, and which of its columns is the text.
        held_out: documents of each process that training never sees.
        rank, processes: which process this is, and of how many.

    Attributes:
        tokenizer: as given.
        held_out: tokens of this process's held-out documents, (M,) int64.
        identity: what the batches depend on, as JSON values.

    Raises:
        TextError: the dataset cannot be read, has no such field, or holds too little.
    """

    def __init__(
        self,
        dataset: str,
        tokenizer: Any,
        context: int = 2048,
        batch: int = 8,
        split: str = "train",
        field: str = "text",
        held_out: int = HELD_OUT,
        rank: int = 0,
        processes: int = 1,
    ):
        check_sizes(context, batch)
        if batch % processes:
            raise TextError(f"batch is {batch}; {processes} processes need a multiple of their number")
        self.dataset, self.field, self.tokenizer = dataset, field, tokenizer
        self.context, self.batch, self.rows = context, batch, batch // processes
        self.separator = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self.documents, self.epoch = open_stream(dataset, split, rank, processes), 0
        self.step, self.left, self._hidden = 0, [], frozenset()
        self._texts = self._read()
        texts = list(islice(self._texts, held_out))
        self.held_out = torch.tensor(self._join(texts))  # (M,)
        self._hidden = frozenset(map(digest, texts))
        if len(self.held_out) <= context or self.epoch > 0:
            raise TextError(
                f"dataset is {dataset!r}, which is too small: {held_out} documents are held out, with "
                f"{len(self.held_out)} tokens; a row of context {context} needs {context + 1}"
            )
        self._fill()  # a dataset that holds nothing more is found out here
        self.identity = {
            **{"dataset": dataset, "split": split, "field": field, "held_out": held_out, "context": context},
            **{"batch": batch, "processes": processes},
            "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        }

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Batch `step`, this process's rows: inputs (B, T) int64, targets (B, T) int64 and loss weights (B, T), all 1.

        Raises:
            TextError: the step is not the next one, or the dataset cannot be read on.
        """
        if step != self.step:
            raise TextError(f"step is {step}; a stream is read in order, and the next step is {self.step}")
        wanted = self._fill()
        rows = torch.tensor(self.left[:wanted]).view(self.rows, -1)  # (B, T + 1)
        self.step, self.left = step + 1, self.left[wanted:]
        return as_batch(rows)

    def _fill(self) -> int:
        """Read on until there are tokens for a step; returns for how many tokens."""
        wanted = self.rows * (self.context + 1)
        while len(self.left) < wanted:
            self.left += self._join(list(islice(self._texts, DOCUMENTS)))
        return wanted

    def state_dict(self) -> dict:
        """The place in the stream, for load_state_dict of a stream that was made alike."""
        place = {"step": self.step, "epoch": self.epoch, "documents": self.documents.state_dict()}
        return place | {"left": torch.tensor(self.left, dtype=torch.int32)}

    def load_state_dict(self, place: dict) -> None:
        """Go on where state_dict was taken, without reading what lies before."""
        self.step, self.epoch, self.left = place["step"], place["epoch"], place["left"].tolist()
        self.documents.load_state_dict(place["documents"])
        self._texts = self._read()

    def _read(self) -> Iterator[str]:
        """The texts that are not held out, without end."""
        while True:
            found = 0
            self.documents.set_epoch(self.epoch)
            for row in self.documents:
                text = row.get(self.field)
                if not isinstance(text, str):
                    raise TextError(
                        f"dataset is {self.dataset!r}, whose field {self.field!r} is no text; it has {', '.join(row)}"
                    )
                if digest(text) not in self._hidden:
                    found += 1
                    yield text
            if not found:
                raise TextError(f"dataset is {self.dataset!r}, which holds nothing beside its held-out documents")
            self.epoch += 1

    def _join(self, texts: list[str]) -> list[int]:
        """The tokens of documents behind each other, a separator before each."""
        return [token for ids in encode(self.tokenizer, texts) for token in (self.separator, *ids)]


def digest(text: str) -> bytes:
    """Sixteen bytes by which a document is recognised."""
    return hashlib.sha256(text.encode()).digest()[:16]
