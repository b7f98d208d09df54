"""Zero-shot and few-shot prediction, and recording of the internals that comparisons need.

Letters: n examples, B queries of a batch, L layers, H heads, D head width, C width, V vocabulary, P prefix tokens,
T query tokens.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from iclnb.experiment.batching import (
    AT_ONCE,
    MULTIPLE,
    Branches,
    back_in_order,
    common_opening,
    halving,
    neighbours,
    pad,
)
from iclnb.experiment.internals import Internals, Maps
from iclnb.intervals import Estimate, share
from iclnb.model.gpt import GPT, Prefix
from iclnb.model.memory import free_bytes, query_bytes
from iclnb.model.recorder import Recorder
from iclnb.tasks.formats import PromptFormat
from iclnb.tasks.prompts import EncodedTask, Prompt, encode_task
from iclnb.tasks.task import Task

POSITIONS = ("query", "answer")
BATCH = {"cpu": 64, "cuda": 256}  # queries; larger batches were not faster on a CPU
PADDING = {"cpu": 128, "cuda": 1024}  # tokens that cost as much as one more pass; on a GPU a guess


class NotFiniteError(ArithmeticError):
    """The model gives log-probabilities that are not finite numbers."""


@dataclass
class Predictions:
    """Predictions for n examples of a task, in the order of its evaluation split.

    Args:
        log_probs: mean log-probability of each answer's tokens, (n, classes) float32.
        labels: gold labels, (n,) int64.
        prompt: what stood before every query.
        internals: present if recording was asked for.
        calibrated: whether the log-probabilities are those after contextual calibration.
    """

    log_probs: Tensor
    labels: Tensor
    prompt: Prompt
    internals: Internals | None = field(default=None, repr=False)
    calibrated: bool = False

    @property
    def predicted(self) -> Tensor:
        """The most probable answer of each example, (n,) int64."""
        return self.log_probs.argmax(-1)  # (n,)

    @property
    def correct(self) -> Tensor:
        """Whether each prediction is the gold label, (n,) bool."""
        return self.predicted == self.labels  # (n,)

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, in [0, 1]."""
        return self.correct.double().mean().item()

    @property
    def interval(self) -> Estimate:
        """The accuracy with its 95 % interval over examples."""
        return share(self.correct.sum(), len(self.labels))


@dataclass
class Batch:
    """One batch of predictions: `rows` are indices into the evaluation split, the rest is as in Predictions.

    Its tensors are on the model's device, where a GPU may still be at work on them.
    """

    rows: list[int]
    log_probs: Tensor
    internals: Internals | None


def zero_shot(model: GPT, tokenizer: Any, task: Task, **options: Any) -> Predictions:
    """Predictions without demonstrations; `options` are those of few_shot."""
    return few_shot(model, tokenizer, task, k=0, **options)


def few_shot(
    model: GPT,
    tokenizer: Any,
    task: Task,
    k: int = 32,
    seed: int = 1,
    *,
    limit: int | None = None,
    prompt_format: PromptFormat | None = None,
    record: bool = False,
    position: str = "query",
    batch_size: int | None = None,
    progress: bool = False,
) -> Predictions:
    """Predictions with k demonstrations before every query, in-context learning.

    Args:
        model, tokenizer: from iclnb.load.
        task: from iclnb.load_task.
        k: demonstrations wanted; those that do not fit the context are dropped (`.prompt.k` tells).
        seed: of the shuffle that demonstrations are taken from.
        limit: number of evaluation examples; None is all.
        prompt_format: how the prompt is written; None is the model's own format, which for most is the paper's.
        record: keep the internals that iclnb.compare needs.
        position: the recorded position, "query" (the last token of the query) or "answer" (the sequence ends with the
            first answer, as in the official code).
        batch_size: queries a forward pass at most; None is as many as free memory allows, up to a size that serves
            speed. It changes no result. A query much longer than the others gets a pass without them, and a pass that
            runs out of memory is repeated in halves.
        progress: show a progress bar.

    Returns:
        Predictions for the first `limit` evaluation examples.

    Raises:
        ValueError: bad k, limit, batch_size or position; a query that is empty or does not fit.
        NotFiniteError: the model's log-probabilities are not finite.
    """
    encoded = encode_task(model.config, tokenizer, task, k, seed, limit, prompt_format)
    return predict(model, encoded, record=record, position=position, batch_size=batch_size, progress=progress)


def predict(model: GPT, encoded: EncodedTask, **options: Any) -> Predictions:
    """few_shot for a task that is encoded already; `options` are those of stream."""
    batches = []
    for batch in stream(model, encoded, **options):
        batches.append(batch if batch.internals is None else replace(batch, internals=batch.internals.cpu()))
    return collect(batches, encoded)


def check_options(position: str, batch_size: int | None) -> None:
    """Raises ValueError for a position or batch size that few_shot does not take."""
    if position not in POSITIONS:
        raise ValueError(f"position is {position!r}; accepted are {', '.join(map(repr, POSITIONS))}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1, or None to follow free memory")


@torch.no_grad()
def stream(
    model: GPT,
    encoded: EncodedTask,
    *,
    record: bool = False,
    position: str = "query",
    batch_size: int | None = None,
    progress: bool = False,
) -> Iterator[Batch]:
    """Predictions batch by batch, longest queries first; two runs over the same task give the same batches.

    The keys and values of the prompt, and of the tokens that all queries open with, are computed once. Every query
    continues them, so a few-shot query costs no more tokens than a zero-shot one. Where memory is short, a batch takes
    several passes. Arguments as in few_shot, with the task already encoded.

    Yields:
        Batches, whose rows together are 0 .. n - 1.
    """
    check_options(position, batch_size)
    device, dtype = model.embed_tokens.weight.device, model.embed_tokens.weight.dtype
    opening = common_opening(encoded.queries)  # O tokens
    order = sorted(range(len(encoded.queries)), key=lambda i: -len(encoded.queries[i]))
    # From here on a GPU is sent work, and not waited for before it has all of it.
    queries = Queries([encoded.queries[i][len(opening) :] for i in order], len(opening), device)
    answers = Answers(encoded.answers, record and position == "answer", device)
    prefix = model.encode_prefix(torch.tensor([encoded.prompt.prefix + opening], device=device))  # (1, P + O)
    size, padding = batch_size or BATCH.get(device.type, BATCH["cpu"]), PADDING.get(device.type, PADDING["cpu"])
    batches = neighbours(queries.lengths, size, padding)
    most = batch_size or min(size, _fitting(model, prefix, queries.lengths[0], encoded.answers, record))  # a pass
    at_first, finite = most, []

    def score(some: range) -> tuple[Tensor, Internals | None]:
        return _score(model, prefix, some, queries, answers, record)

    for run in tqdm(
        batches, desc=f"{encoded.name}, k = {encoded.prompt.k}", unit="batch", disable=not progress, leave=False
    ):
        parts, fitted = halving(score, range(run.start, run.stop), most)
        if fitted < most == at_first:
            warnings.warn(f"memory ran out with {most} queries a pass; going on with {fitted}", stacklevel=2)
        most = fitted
        log_probs, internals = zip(*parts, strict=True)
        log_probs = torch.cat(log_probs)  # (B, classes)
        finite.append(log_probs.isfinite().all())  # ()
        if device.type in AT_ONCE:
            _check_finite(finite, dtype)
        yield Batch(order[run], log_probs, Internals.join(internals) if record else None)
    _check_finite(finite, dtype)


def _check_finite(found: list[Tensor], dtype: torch.dtype) -> None:
    if not torch.stack(found).all():  # a GPU is waited for
        raise NotFiniteError(
            f"the model's log-probabilities are not finite in {dtype}; "
            "its weights may be damaged, or the dtype too narrow for them"
        )


class Queries:
    """The queries of a run, the longest first, on the model's device.

    Args:
        sequences: token ids of each, without what all of them open with.
        opening: how many tokens that is, which the prefix ends with.
        device: the model's.
    """

    def __init__(self, sequences: list[list[int]], opening: int, device: torch.device):
        self.lengths, self.opening = [len(ids) for ids in sequences], opening
        self.ids, self.ends = pad(sequences, device)  # (n, S), (n,)


class Answers:
    """What is fed after every query so that one pass scores all answers, and where their tokens are then read.

    Args:
        answers: token ids of each.
        observed: whether the first answer's end is recorded, and it is therefore fed whole.
        device: the model's.
    """

    def __init__(self, answers: list[list[int]], observed: bool, device: torch.device):
        fed = [answer[:-1] for answer in answers]  # the model is never fed an answer's last token ...
        if observed:
            fed[0] = answers[0]  # ... unless that is where it is observed
        self.branches, self.lengths = Branches(fed, device), [len(answer) for answer in answers]
        self.observed = len(answers[0]) if observed else 0
        places, follows, start = [-1], [], 0  # places, from a query's end on, that an answer's token follows
        for answer, branch in zip(answers, fed, strict=True):
            follows += [0, *range(len(places), len(places) + len(answer) - 1)]
            places += range(start, start + len(answer) - 1)
            start += len(branch)
        tokens = [token for answer in answers for token in answer]
        self.places, self.follows, self.tokens = (torch.tensor(x, device=device) for x in (places, follows, tokens))

    def read(self, logits: Tensor) -> Tensor:
        """Mean log-probability of each answer's tokens, (B, classes), from the logits (B, A, V) at `places`."""
        found = logits[:, self.follows, self.tokens] - logits.logsumexp(-1)[:, self.follows]  # (B, all answers' tokens)
        return torch.stack([tokens.mean(-1) for tokens in found.split(self.lengths, dim=1)], dim=1)  # (B, classes)


def _fitting(model: GPT, prefix: Prefix, longest: int, answers: list[list[int]], record: bool) -> int:
    """How many queries of up to `longest` tokens half of the free memory holds, at least 1."""
    weight = model.embed_tokens.weight
    later = sum(len(answer) - 1 for answer in answers)  # answer tokens after the first
    T = longest + later + len(answers[0]) * record
    each = query_bytes(model.config, weight.dtype, prefix.length, T, 1 + later, record)
    return max(1, free_bytes(weight.device) // 2 // each)


def _score(
    model: GPT, prefix: Prefix, some: range, queries: Queries, answers: Answers, record: bool
) -> tuple[Tensor, Internals | None]:
    """Mean log-probability of each answer after some of the queries, (B, classes), and internals, from one pass."""
    rows = slice(some.start, some.stop)
    stems, lengths = queries.ids[rows, : queries.lengths[some.start]], queries.ends[rows]  # (B, S), (B,)
    multiple = MULTIPLE.get(stems.device.type, 1)
    ids, positions, mask = answers.branches.follow(stems, lengths, multiple)  # (B, T), (B, T), (B, 1, T, T) or None
    at = lengths - 1 + answers.observed  # (B,) the recorded position
    recorder = Recorder("output", "scores", "query", at=at) if record else None
    places = lengths[:, None] + answers.places  # (B, A)
    scored = answers.read(model.logits(model.hidden(ids, prefix, recorder, positions, mask, at=places)))  # (B, classes)
    if not record:
        return scored, None
    own = [length + queries.opening + answers.observed for length in queries.lengths[rows]]
    return scored, _internals(recorder, prefix.length - queries.opening, at + queries.opening, own)


def _internals(recorder: Recorder, P: int, at: Tensor, own: list[int]) -> Internals:
    """What a recorder kept of one pass; the `own` tokens of a query stop `at` the recorded position, before padding."""
    scores = torch.stack(recorder.layers["scores"], dim=1).float()  # (B, L, H, P + T)
    query = torch.stack(recorder.layers["query"], dim=1).float()  # (B, L, H, D)
    index = torch.arange(own[0], device=at.device) - own[0] + 1 + at[:, None, None, None]  # (B, 1, 1, T), at comes last
    padded = scores[..., P:].take_along_dim(index.clamp(min=0), dim=-1).masked_fill(index < 0, 0)  # (B, L, H, T)
    return Internals(
        output=torch.stack(recorder.layers["output"], dim=1).float(),  # (B, L, C)
        scores=Maps(padded, own),
        prefix_scores=scores[..., :P].sum(2),  # (B, L, P)
        query=(query / query.shape[-1] ** 0.5).flatten(2),  # (B, L, C)
        dtype=recorder.layers["output"][0].dtype,
    )


def collect(batches: Sequence[Batch], encoded: EncodedTask) -> Predictions:
    """Predictions from all batches of a stream, put back into the order of the evaluation split."""
    back = back_in_order([row for batch in batches for row in batch.rows])  # n
    log_probs = torch.cat([batch.log_probs for batch in batches]).cpu()[back].float()  # (n, classes)
    recorded = batches[0].internals is not None
    internals = Internals.join([batch.internals for batch in batches])[back] if recorded else None
    return Predictions(log_probs, torch.tensor(encoded.labels), encoded.prompt, internals)
