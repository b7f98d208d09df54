"""Examples -> token ids, exactly as the paper's code forms them.

A zero-shot sequence is `<s> query`, a few-shot sequence `<s> demonstration </s> demonstration </s> ... query`. A
demonstration is the filled template, one space, and its answer; a query is the filled template alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iclnb.gpt import GPTConfig
from iclnb.tasks import Example, Task


@dataclass(frozen=True)
class Prompt:
    """What all queries of a run share.

    Args:
        prefix: ids before every query, `<s>` first.
        spans: for each demonstration, the half-open range of its tokens (template and answer, no separator) in prefix.
        demonstrations: the examples used, in order.
    """

    prefix: list[int]
    spans: list[tuple[int, int]]
    demonstrations: list[Example]

    @property
    def k(self) -> int:
        """Number of demonstrations."""
        return len(self.demonstrations)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text alone, without any special token."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def encode_query(tokenizer: Any, example: Example) -> list[int]:
    """Token ids of a query.

    Raises:
        ValueError: the text gives no token.
    """
    ids = encode(tokenizer, example.text)
    if not ids:
        raise ValueError(f"the query {example.text!r} is empty")
    return ids


def encode_answers(tokenizer: Any, answers: Sequence[str]) -> list[list[int]]:
    """Token ids of each answer with the space before it."""
    return [encode(tokenizer, f" {answer}") for answer in answers]


def encode_demonstration(tokenizer: Any, example: Example, answers: Sequence[str]) -> list[int]:
    """Token ids of an example followed by its gold answer."""
    return encode(tokenizer, f"{example.text} {answers[example.label]}")


def longest_query(tokenizer: Any, task: Task) -> int:
    """Tokens of the longest evaluation query with the longest answer, `<s>` included."""
    answer = max(len(ids) for ids in encode_answers(tokenizer, task.answers))
    texts = [example.text for example in task.evaluation]
    return 1 + max(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"])) + answer


def build_prompt(config: GPTConfig, tokenizer: Any, task: Task, k: int, seed: int) -> Prompt:
    """The shared part of a few-shot prompt: `<s>` and as many of the first k demonstrations as fit.

    A demonstration that would not leave room for the longest query of the whole evaluation split is dropped, with all
    that follow it; so the number of demonstrations does not depend on which queries are asked.

    Args:
        config: gives `<s>`, `</s>` and the number of positions.
        tokenizer: the model's.
        task: source of demonstrations and queries.
        k: demonstrations wanted; 0 is zero-shot.
        seed: of the shuffle of the train split.

    Returns:
        The prompt; its k may be smaller than asked.

    Raises:
        ValueError: k is negative or larger than the train split, or the longest query does not fit by itself.

    Source: get_data_for_fewshot in the official code.
    """
    room = longest_query(tokenizer, task)
    if room > config.n_positions:
        raise ValueError(
            f"the longest query of task {task.name} has {room} tokens, but the model has {config.n_positions} positions"
        )
    prefix, spans, used = [config.bos_token_id], [], []
    for example in task.demonstrations(k, seed):
        ids = encode_demonstration(tokenizer, example, task.answers)
        if len(prefix) + len(ids) + 1 + room >= config.n_positions:
            break
        spans.append((len(prefix), len(prefix) + len(ids)))
        prefix += [*ids, config.eos_token_id]
        used.append(example)
    return Prompt(prefix, spans, used)


def training_sequence(config: GPTConfig, tokenizer: Any, example: Example, answers: Sequence[str]) -> list[int]:
    """The sequence that fine-tuning learns from one demonstration: `<s> template answer`."""
    return [config.bos_token_id, *encode_demonstration(tokenizer, example, answers)]
