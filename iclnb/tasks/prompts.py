"""Examples -> token ids, exactly as the paper's code forms them.

A zero-shot sequence is `<s> query`, a few-shot sequence `<s> demonstration </s> demonstration </s> ... query`. A
demonstration is the filled template, one space, and its answer; a query is the filled template alone. What stands for
`<s>` and `</s>` is the format's choice.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

from iclnb.model.gpt import GPTConfig
from iclnb.tasks.encoding import encode, encode_piece
from iclnb.tasks.formats import PromptFormat, own_format
from iclnb.tasks.task import Example, Task, TaskSpec

CONTENT_FREE = ("N/A", "[MASK]", "")  # the three inputs of Zhao et al. 2021, Calibrate Before Use, section 5


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

    @property
    def sequences(self) -> list[list[int]]:
        """What fine-tuning learns from, in the prompt's order: `<s> template answer` of each demonstration."""
        return [[self.prefix[0], *self.prefix[start:stop]] for start, stop in self.spans]


@dataclass(frozen=True)
class EncodedTask:
    """A task as token ids, made once by `encode_task`: all that prediction and fine-tuning read.

    Args:
        name: of the task.
        prompt: what stands before every query, and what fine-tuning learns from.
        queries: ids of each query that is asked, in the order of the evaluation split.
        labels: the gold answer's number for each of them.
        answers: ids of each answer with the space before it.
        content_free: ids of queries that say nothing, to calibrate by.
    """

    name: str
    prompt: Prompt
    queries: list[list[int]]
    labels: list[int]
    answers: list[list[int]]
    content_free: list[list[int]]

    @property
    def zero_shot(self) -> "EncodedTask":
        """The same queries without demonstrations."""
        return replace(self, prompt=Prompt(self.prompt.prefix[:1], [], []))


def encode_query(tokenizer: Any, example: Example) -> list[int]:
    """Token ids of a query.

    Raises:
        ValueError: the text gives no token.
    """
    return _encode_queries(tokenizer, len(tokenizer), (example,))[0]


def encode_answers(tokenizer: Any, spec: TaskSpec) -> list[list[int]]:
    """Token ids of each answer with the space before it, as they are after the task's template."""
    query = fill(spec, "x")
    return [encode_piece(tokenizer, query, f" {answer}") for answer in spec.answers]


def fill(spec: TaskSpec, text: str) -> str:
    """The template with the same text in every field."""
    return spec.template.format(**dict.fromkeys(spec.fields, text))


def encode_task(
    config: GPTConfig,
    tokenizer: Any,
    task: Task,
    k: int,
    seed: int,
    limit: int | None = None,
    prompt_format: PromptFormat | None = None,
) -> EncodedTask:
    """The ids of a task: its prompt of as many of the first k demonstrations as fit, its queries and its answers.

    A demonstration that would not leave room for the longest query of the whole evaluation split is dropped, with all
    that follow it; so the number of demonstrations does not depend on which queries are asked.

    Args:
        config: gives `<s>`, `</s>` and the number of positions.
        tokenizer: the model's.
        task: source of demonstrations and queries.
        k: demonstrations wanted; 0 is zero-shot.
        seed: of the shuffle of the train split.
        limit: number of evaluation examples; None is all.
        prompt_format: how the prompt is written; None is the model's own format, which for most is the paper's.

    Returns:
        The task as ids; its prompt's k may be smaller than asked.

    Raises:
        ValueError: limit is smaller than 1, k is negative or larger than the train split, a query is empty, or the
            longest one does not fit by itself.

    Source: get_data_for_fewshot in the official code.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1, or None for all")
    demonstrations = task.demonstrations(k, seed)
    queries = _encode_queries(tokenizer, len(tokenizer), tuple(task.evaluation))
    answers = encode_answers(tokenizer, task.spec)
    room = 1 + max(map(len, queries)) + max(map(len, answers))  # of the longest query and answer, with `<s>`
    if room > config.n_positions:
        raise ValueError(
            f"the longest query of task {task.name} has {room} tokens, but the model has {config.n_positions} positions"
        )
    texts = [f"{example.text} {task.answers[example.label]}" for example in demonstrations]
    prompt_format, probe = prompt_format or own_format(tokenizer), texts[0] if texts else fill(task.spec, "x")
    start, separator = prompt_format.ids(config, tokenizer, before=probe, after=probe)
    prefix, spans = [start], []
    for ids in encode(tokenizer, texts):
        if len(prefix) + len(ids) + len(separator) + room >= config.n_positions:
            break
        spans.append((len(prefix), len(prefix) + len(ids)))
        prefix += [*ids, *separator]
    prompt = Prompt(prefix, spans, demonstrations[: len(spans)])
    labels = [example.label for example in task.evaluation[:limit]]
    content_free = encode(tokenizer, [fill(task.spec, text) for text in CONTENT_FREE])
    return EncodedTask(task.name, prompt, queries[:limit], labels, answers, content_free)


def build_prompt(
    config: GPTConfig, tokenizer: Any, task: Task, k: int, seed: int, prompt_format: PromptFormat | None = None
) -> Prompt:
    """The prompt of encode_task alone: `<s>` and as many of the first k demonstrations as fit."""
    return encode_task(config, tokenizer, task, k, seed, prompt_format=prompt_format).prompt


@functools.lru_cache(maxsize=8)  # the same queries are asked again and again, after other demonstrations
def _encode_queries(tokenizer: Any, entries: int, examples: tuple[Example, ...]) -> list[list[int]]:
    """Ids of each query; `entries`, the tokenizer's length, tells it from itself with tokens added."""
    queries = encode(tokenizer, [example.text for example in examples])
    for ids, example in zip(queries, examples, strict=True):
        if not ids:
            raise ValueError(f"the query {example.text!r} is empty")
    return queries
