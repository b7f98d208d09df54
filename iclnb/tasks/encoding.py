"""Texts -> token ids: text is text, and a piece of a text gets the ids that it has inside of it."""

import warnings
from collections.abc import Sequence
from typing import Any


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, with no special token before, after or in it.

    A text that says `</s>` gets the ids of these four characters: nothing that data say can end a demonstration.

    Raises:
        ValueError: the tokenizer makes a special token of a text all the same.
    """
    if not texts:
        return []
    found = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}  # a word that is not known is still a word
    for text, ids in zip(texts, found, strict=True):
        if not special.isdisjoint(ids):
            token = tokenizer.convert_ids_to_tokens(next(i for i in ids if i in special))
            raise ValueError(f"the text {text!r} holds {token!r}, which this tokenizer takes for a special token")
    return found


def encode_piece(tokenizer: Any, before: str, piece: str, after: str = "") -> list[int]:
    """Token ids that `piece` has in the text `before + piece + after`.

    By itself it may get others: a tokenizer of the SentencePiece kind puts a space before every text, one of GPT-2's
    kind joins two line breaks, but not where a word follows them.

    Where one token holds a part of the piece and a part of what is beside it, nothing can be cut there. This is said,
    and the ids are those of the piece by itself.

    Args:
        tokenizer: a fast one, which knows where its tokens begin and end.
        before, piece, after: texts; before and after may be empty.
    """
    start, stop = len(before), len(before) + len(piece)
    options = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True}
    whole = tokenizer(before + piece + after, **options)
    ids = []
    for token, (a, b) in zip(whole["input_ids"], whole["offset_mapping"], strict=True):
        if a < stop and b > start and a < b:
            if a < start or b > stop:
                warnings.warn(
                    f"{piece!r} cannot be cut out of {before[-20:] + piece + after[:20]!r}, since the token "
                    f"{tokenizer.convert_ids_to_tokens(token)!r} reaches beyond it; it is tokenised by itself",
                    stacklevel=3,
                )
                return encode(tokenizer, [piece])[0]
            ids.append(token)
    return ids
