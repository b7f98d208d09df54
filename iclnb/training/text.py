"""Text to train on: a file under a tokenizer of its own, or a dataset of the Hub, read as it comes and never kept.

Letters: B sequences of T tokens, M tokens held out.
"""

import hashlib
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iclnb.model.gpt import GPT
from iclnb.training.loop import Batch
from iclnb.training.perplexity import Perplexity, cut, perplexities, token_losses

BOS, EOS = "<s>", "</s>"
HELD_OUT = 0.1  # share of a file that training never sees
SLACK = 0.01  # share of a file within which the held-out part may begin earlier, so that a line stays whole
HELD_OUT_DOCUMENTS = 500  # and documents of each process's part of a dataset
DOCUMENTS = 32  # tokenised at a time
NOT_TEXT = 100  # rows without text that are taken for an accident, however few have some
READING = 2  # version of how documents become tokens; a training of another one is not continued
MEASURED = 64  # held-out windows that the record is measured on


class TextError(ValueError):
    """Text that cannot be read, or that is too little for what is asked."""


def as_batch(rows: Tensor) -> Batch:
    """Inputs, targets and loss weights, (B, T) each, of rows (B, T + 1) in which every token counts alike."""
    return rows[:, :-1], rows[:, 1:], torch.ones(rows[:, 1:].shape)


class Text:
    """What texts have in common as a training's data: the sizes of batches, and how the held-out part is used."""

    every = 100
    tokenizer: Any
    held_out: Tensor  # (M,)

    def __init__(self, context: int, batch: int):
        for name, value in (("context", context), ("batch", batch)):
            if value < 1:
                raise TextError(f"{name} is {value}; it must be at least 1")
        self.context, self.batch, self.steps, self.sizes = context, batch, 0, [(1, batch, context)]

    def measure(self, model: GPT) -> dict[str, float]:
        """Loss on the first windows of the held-out text, nats a token."""
        windows = cut(self.held_out, self.context)[:MEASURED]  # (n, T + 1)
        return {"held_out": token_losses(model, windows).mean().item()}

    def report(self, model: GPT) -> list[Perplexity]:
        """Perplexity of the held-out text, as `perplexities` gives it."""
        return perplexities(model, self.held_out, self.context)


def train_tokenizer(text: str, vocab_size: int = 1024) -> Any:
    """A byte-level BPE learnt from a text.

    Returns:
        A transformers PreTrainedTokenizerFast of at most vocab_size entries: `<s>`, `</s>`, 256 bytes, and merges.

    Source: Sennrich et al. 2016; on bytes, Radford et al. 2019.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The token ids of each text, without special tokens: a `</s>` that is written in it is four characters."""
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, **options)["input_ids"]


def read_text(file: str | Path) -> str:
    """The content of a text file.

    Raises:
        TextError: there is no such file, it is empty, or it is not text in UTF-8.
    """
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"text is {str(file)!r}, which is not UTF-8 (at byte {error.start})") from error
    except OSError as error:
        raise TextError(f"text is {str(file)!r}, which cannot be read ({error.strerror}); a text file is") from error
    if not text.strip():
        raise TextError(f"text is {str(file)!r}, which is empty")
    if "\0" in text:
        raise TextError(f"text is {str(file)!r}, which is no UTF-8 text: it holds the character 0, as UTF-16 does")
    return text


def where_held_out(text: str) -> int:
    """Where the last tenth of a text begins: at a line or else a word, if one begins near enough."""
    end = int((1 - HELD_OUT) * len(text))
    for mark in "\n ":
        if (last := text.rfind(mark, end - int(SLACK * len(text)), end)) >= 0:
            return last + 1
    return end


class TextFile(Text):
    """A text file as batches: every row is T + 1 tokens from a place in its training part that is drawn anew.

    The last tenth of the text is held out; the tokenizer is learnt from the rest, the training part.

    Args:
        file: UTF-8.
        context: T.
        batch: B, rows of a step.
        seed: of the places.
        vocab_size: of the tokenizer.

    Attributes:
        tokenizer: a transformers tokenizer.
        ids, held_out: tokens of the training part (N,) and of the held-out part (M,), int64.
        identity: what the batches depend on, as JSON values.
        steps: as many as the training part has tokens for.

    Raises:
        TextError: as read_text does, or a part has no T + 1 tokens.
    """

    def __init__(self, file: str | Path, context: int = 256, batch: int = 8, seed: int = 0, vocab_size: int = 1024):
        super().__init__(context, batch)
        self.seed = seed
        text = read_text(file)
        end = where_held_out(text)
        self.tokenizer = train_tokenizer(text[:end], vocab_size)
        self.ids, self.held_out = (self._encode(part) for part in (text[:end], text[end:]))  # (N,), (M,)
        for part, ids in (("training part", self.ids), ("held-out part", self.held_out)):
            if len(ids) <= context:
                raise TextError(
                    f"text is {str(file)!r}, whose {part} has {len(ids)} tokens; a row of context {context} needs "
                    f"{context + 1}"
                )
        self.steps = max(1, len(self.ids) // (batch * context))
        content = hashlib.sha256(torch.cat([self.ids, self.held_out]).numpy().tobytes()).hexdigest()
        self.identity = {"text": content, "split": len(self.ids), "context": context, "batch": batch, "seed": seed}

    def __call__(self, step: int) -> Batch:
        """Batch `step`: inputs (B, T) int64, targets (B, T) int64 and loss weights (B, T), all 1."""
        generator = torch.Generator().manual_seed(self.seed * 100_000_007 + step)
        places = torch.randint(len(self.ids) - self.context, (self.batch, 1), generator=generator)  # (B, 1)
        rows = self.ids[places + torch.arange(self.context + 1)]  # (B, T + 1)
        return as_batch(rows)

    def _encode(self, text: str) -> Tensor:
        lines = encode(self.tokenizer, text.splitlines(keepends=True))
        return torch.tensor([token for line in lines for token in line])  # (N,)


# ----------------------------------------------------------------------------------------------------------- a dataset


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
    for token in filter(None, (tokenizer.bos_token, tokenizer.eos_token)):  # some models of a tokenizer hold them too
        if tokenizer.convert_tokens_to_ids(token) in encode(tokenizer, [token])[0]:
            raise TextError(f"tokenizer is {name!r}, which takes {token!r} in a text for the end of a document")
    return tokenizer


class TextStream(Text):
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
        steps: 0, to be set; a stream has no end.

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
        held_out: int = HELD_OUT_DOCUMENTS,
        rank: int = 0,
        processes: int = 1,
    ):
        super().__init__(context, batch)
        if batch % processes:
            raise TextError(f"batch is {batch}; {processes} processes need a multiple of their number")
        self.dataset, self.field, self.tokenizer = dataset, field, tokenizer
        self.rows = batch // processes
        self.separator = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self.documents, self.epoch = open_stream(dataset, split, rank, processes), 0
        self.step, self.left, self._hidden = 0, [], frozenset()
        self.read = self.skipped = 0  # rows with and without text
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
            **{"batch": batch, "processes": processes, "reading": READING},
            "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        }

    def __call__(self, step: int) -> Batch:
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

    def measure(self, model: GPT) -> dict[str, float]:
        """The same, and how many rows without text this process has skipped so far."""
        return super().measure(model) | {"skipped": self.skipped}

    def _fill(self) -> int:
        """Read on until there are tokens for a step; returns for how many tokens."""
        wanted = self.rows * (self.context + 1)
        while len(self.left) < wanted:
            self.left += self._join(list(islice(self._texts, DOCUMENTS)))
        return wanted

    def state_dict(self) -> dict:
        """The place in the stream, for load_state_dict of a stream that was made alike."""
        place = {name: getattr(self, name) for name in ("step", "epoch", "read", "skipped")}
        return place | {"documents": self.documents.state_dict(), "left": torch.tensor(self.left, dtype=torch.int32)}

    def load_state_dict(self, place: dict) -> None:
        """Go on where state_dict was taken, without reading what lies before."""
        self.step, self.epoch, self.left = place["step"], place["epoch"], place["left"].tolist()
        self.read, self.skipped = place["read"], place["skipped"]
        self.documents.load_state_dict(place["documents"])
        self._texts = self._read()

    def _read(self) -> Iterator[str]:
        """The texts that are not held out, without end; a row without text is passed over."""
        rounds_without = 0
        while rounds_without < 2:  # one that goes on at a place may have nothing left
            found, row = 0, {}
            self.documents.set_epoch(self.epoch)
            for row in self._rows():
                text = row.get(self.field)
                if not isinstance(text, str):
                    self._skip(row)
                    continue
                self.read += 1
                if digest(text) not in self._hidden:
                    found += 1
                    yield text
            if not self.read:
                raise self._without_text(row)
            rounds_without = 0 if found else rounds_without + 1
            self.epoch += 1
        raise TextError(f"dataset is {self.dataset!r}, which holds nothing beside its held-out documents")

    def _rows(self) -> Iterator[dict[str, Any]]:
        """What is left of a round of the dataset."""
        try:
            yield from self.documents
        except Exception as error:  # of the network, of the file's format, of the library
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            raise TextError(f"dataset is {self.dataset!r}, which cannot be read on ({said})") from error

    def _skip(self, row: dict[str, Any]) -> None:
        """Count a row without text, and say so of the first.

        Raises:
            TextError: most rows are like that.
        """
        self.skipped += 1
        if self.skipped >= NOT_TEXT + self.read:
            raise self._without_text(row)
        if self.skipped == 1:
            said = f"dataset {self.dataset!r} has rows whose {self.field!r} is no text, as {row.get(self.field)!r:.40}"
            warnings.warn(f"{said}; they are skipped, and counted in training.csv", stacklevel=2)

    def _without_text(self, row: dict[str, Any]) -> TextError:
        found = f"no text in {self.skipped} of {self.skipped + self.read} rows; it has {', '.join(row)}"
        return TextError(f"dataset is {self.dataset!r}, whose field {self.field!r} is {found}")

    def _join(self, texts: list[str]) -> list[int]:
        """The tokens of documents behind each other, a separator before each."""
        return [token for ids in encode(self.tokenizer, texts) for token in (self.separator, *ids)]


def digest(text: str) -> bytes:
    """Sixteen bytes by which a document is recognised."""
    return hashlib.sha256(text.encode()).digest()[:16]
