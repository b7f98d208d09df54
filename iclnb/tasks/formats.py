"""How a prompt is written: the token before everything, and what stands between demonstrations."""

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from iclnb.model.gpt import GPTConfig
from iclnb.tasks.encoding import encode_piece

DOCUMENT = "<|endoftext|>"  # what GPTs without `<s>` were trained to read before a text


class FormatIds(NamedTuple):
    """A format as token ids: the one before everything, and those after each demonstration."""

    start: int
    separator: list[int]


@dataclass(frozen=True)
class PromptFormat:
    """How a prompt is written; the defaults are the paper's.

    Args:
        start: the token before everything: "<s>" or "</s>", the ones that the model's configuration names; or the text
            of another token.
        separator: what follows each demonstration: "</s>" or "<s>"; the text of a special token; or any other text,
            such as two line breaks.

    Raises:
        ValueError: one of the two is no text, or is empty.
    """

    start: str = "<s>"
    separator: str = "</s>"

    def __post_init__(self):
        for field in fields(self):
            if not isinstance(value := getattr(self, field.name), str) or not value:
                raise ValueError(f"{field.name} of a prompt is {value!r}; accepted is a text that is not empty")

    def __str__(self) -> str:
        return f"{self.start!r}, then demonstrations that end in {self.separator!r}"

    def ids(self, config: GPTConfig, tokenizer: Any, before: str = "", after: str = "") -> FormatIds:
        """The format as token ids.

        Args:
            config: names the ids of `<s>` and `</s>`.
            tokenizer: the model's.
            before, after: texts that the separator stands between, on which its tokens depend.

        Raises:
            ValueError: the model has no such token, or more than one is needed before everything.
        """
        start = self._token(self.start, config, tokenizer)
        if start is None and len(ids := encode_piece(tokenizer, "", self.start)) == 1:
            start = ids[0]
        if start is None:
            raise ValueError(f"start of a prompt is {self.start!r}, which is no token of this model; name one that is")
        separator = self._token(self.separator, config, tokenizer)
        if separator is not None:
            return FormatIds(start, [separator])
        if self.separator in ("<s>", "</s>"):
            raise ValueError(
                f"separator of a prompt is {self.separator!r}, which this model does not have; name another"
            )
        return FormatIds(start, encode_piece(tokenizer, before, self.separator, after))

    @staticmethod
    def _token(text: str, config: GPTConfig, tokenizer: Any) -> int | None:
        """The id of `<s>`, `</s>` or a special token; None where the model has none or the text is something else."""
        if text == "</s>":
            return _first(config.eos_token_id, tokenizer.eos_token_id)
        if text == "<s>" and (start := _first(config.bos_token_id, tokenizer.bos_token_id)) is not None:
            return start
        name = DOCUMENT if text == "<s>" else text
        return tokenizer.convert_tokens_to_ids(name) if name in tokenizer.all_special_tokens else None


def own_format(tokenizer: Any) -> PromptFormat:
    """The format that a model brings with its tokenizer, as `prompt_format` of its configuration; else the paper's.

    Raises:
        ValueError: what it brings is no format.
    """
    brought = tokenizer.init_kwargs.get("prompt_format", {})
    try:
        return PromptFormat(**brought)
    except TypeError as error:
        raise ValueError(f"prompt_format of the tokenizer is {brought!r}; accepted are start and separator") from error


def _first(*ids: int | None) -> int | None:
    """The first that there is."""
    return next((i for i in ids if i is not None), None)
