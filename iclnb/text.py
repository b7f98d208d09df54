"""A text file to train on, under a small tokenizer of its own.

Letters: B sequences of T tokens.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iclnb.vocabulary import BOS, EOS

HELD_OUT = 0.1  # share of the text that training never sees


class TextError(ValueError):
    """Text that cannot be read, or that is too little for what is asked."""


def check_sizes(context: int, batch: int) -> None:
    """Raises TextError for a batch without rows, or rows without tokens."""
    for name, value in (("context", context), ("batch", batch)):
        if value < 1:
            raise TextError(f"{name} is {value}; it must be at least 1")


def as_batch(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and loss weights, (B, T) each, of rows (B, T + 1) in which every token counts alike."""
    return rows[:, :-1], rows[:, 1:], torch.ones(rows[:, 1:].shape)


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
    """The token ids of each text, without special tokens."""
    return [e.ids for e in tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)]


def read_text(file: str | Path) -> str:
    """The content of a text file.

    Raises:
        TextError: there is no such file, it is empty, or it is not UTF-8.
    """
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"text is {str(file)!r}, which is not UTF-8 (at byte {error.start})") from error
    except OSError as error:
        raise TextError(f"text is {str(file)!r}, which cannot be read ({error.strerror}); a text file is") from error
    if not text.strip():
        raise TextError(f"text is {str(file)!r}, which is empty")
    return text


class TextFile:
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

    Raises:
        TextError: as read_text does, or a part has no T + 1 tokens.
    """

    def __init__(self, file: str | Path, context: int = 256, batch: int = 8, seed: int = 0, vocab_size: int = 1024):
        check_sizes(context, batch)
        self.context, self.batch, self.seed = context, batch, seed
        text = read_text(file)
        end = int((1 - HELD_OUT) * len(text))
        end = text.rfind("\n", 0, end) + 1 or end  # a line stays whole
        self.tokenizer = train_tokenizer(text[:end], vocab_size)
        self.ids, self.held_out = (self._encode(part) for part in (text[:end], text[end:]))  # (N,), (M,)
        for part, ids in (("training part", self.ids), ("held-out part", self.held_out)):
            if len(ids) <= context:
                raise TextError(
                    f"text is {str(file)!r}, whose {part} has {len(ids)} tokens; a row of context {context} needs "
                    f"{context + 1}"
                )
        content = hashlib.sha256(torch.cat([self.ids, self.held_out]).numpy().tobytes()).hexdigest()
        self.identity = {"text": content, "split": len(self.ids), "context": context, "batch": batch, "seed": seed}

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Batch `step`: inputs (B, T) int64, targets (B, T) int64 and loss weights (B, T), all 1."""
        generator = torch.Generator().manual_seed(self.seed * 100_000_007 + step)
        places = torch.randint(len(self.ids) - self.context, (self.batch, 1), generator=generator)  # (B, 1)
        rows = self.ids[places + torch.arange(self.context + 1)]  # (B, T + 1)
        return as_batch(rows)

    def _encode(self, text: str) -> Tensor:
        lines = encode(self.tokenizer, text.splitlines(keepends=True))
        return torch.tensor([token for line in lines for token in line])  # (N,)
