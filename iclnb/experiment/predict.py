"""Zero-shot and few-shot prediction, and recording of the internals that comparisons need.

Letters: n examples, B queries of a batch, L layers, H heads, D head width, C width, V vocabulary, P prefix tokens,
T query tokens.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from iclnb.experiment.batching import back_in_order, branch, common_opening, halving, neighbours
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
class Internals:
    """What the attention layers did at the recorded position of each query, float32 on the CPU.

    Args:
        output: attention-block output after its projection, before the residual, (n, L, C).
        scores: for each query, logits of the position to the query's own tokens, (L, H, own tokens), without `<s>`.
        prefix_scores: logits of the position to each token of the prompt, summed over heads, (n, L, P).
        query: query vectors, scaled by 1 / sqrt(D), all heads side by side, (n, L, C).
        dtype: in which the model computed them, and to whose last digits they are therefore exact.
    """

    output: Tensor
    scores: list[Tensor]
    prefix_scores: Tensor
    query: Tensor
    dtype: torch.dtype = torch.float32

    def __getitem__(self, rows: Sequence[int]) -> "Internals":
        """The internals of some of the examples."""
        index = torch.tensor(rows, dtype=torch.long)
        scores = [self.scores[i] for i in rows]
        return Internals(self.output[index], scores, self.prefix_scores[index], self.query[index], self.dtype)

    @staticmethod
    def join(parts: Sequence["Internals"]) -> "Internals":
        """The internals of several batches, one behind the other."""
        scores = [row for part in parts for row in part.scores]
        output, prefix_scores, query = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("output", "prefix_scores", "query")
        )
        return Internals(output, scores, prefix_scores, query, parts[0].dtype)


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
    """One batch of predictions: `rows` are indices into the evaluation split, the rest is as in Predictions."""

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
    return collect(list(stream(model, encoded, **options)), encoded)


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
    answers, device = encoded.answers, model.embed_tokens.weight.device
    opening = common_opening(encoded.queries)  # O tokens
    prefix = model.encode_prefix(torch.tensor([encoded.prompt.prefix + opening], device=device))  # (1, P + O)
    queries = [query[len(opening) :] for query in encoded.queries]
    order = sorted(range(len(queries)), key=lambda i: -len(queries[i]))
    size, padding = batch_size or BATCH.get(device.type, BATCH["cpu"]), PADDING.get(device.type, PADDING["cpu"])
    batches = neighbours([len(queries[i]) for i in order], size, padding)
    most = batch_size or min(size, _fitting(model, prefix, len(queries[order[0]]), answers, record))  # queries a pass
    at_first = most

    def score(some: list[list[int]]) -> tuple[Tensor, Internals | None]:
        return _score(model, prefix, some, answers, record, position, len(opening))

    for run in tqdm(
        batches, desc=f"{encoded.name}, k = {encoded.prompt.k}", unit="batch", disable=not progress, leave=False
    ):
        rows = order[run]
        parts, fitted = halving(score, [queries[i] for i in rows], most)
        if fitted < most == at_first:
            warnings.warn(f"memory ran out with {most} queries a pass; going on with {fitted}", stacklevel=2)
        most = fitted
        log_probs, internals = zip(*parts, strict=True)
        yield Batch(rows, torch.cat(log_probs), Internals.join(internals) if record else None)


def _fitting(model: GPT, prefix: Prefix, longest: int, answers: list[list[int]], record: bool) -> int:
    """How many queries of up to `longest` tokens half of the free memory holds, at least 1."""
    weight = model.embed_tokens.weight
    later = sum(len(answer) - 1 for answer in answers)  # answer tokens after the first
    T = longest + later + len(answers[0]) * record
    each = query_bytes(model.config, weight.dtype, prefix.length, T, 1 + later, record)
    return max(1, free_bytes(weight.device) // 2 // each)


def _score(
    model: GPT,
    prefix: Prefix,
    queries: list[list[int]],
    answers: list[list[int]],
    record: bool,
    position: str,
    opening: int = 0,
) -> tuple[Tensor, Internals | None]:
    """Mean log-probability of each answer after each query, (B, classes) float32, and internals, from one pass.

    The last `opening` tokens of the prefix are the queries' own, which all of them begin with.
    """
    device = model.embed_tokens.weight.device
    branches = [answer[:-1] for answer in answers]  # the model is never fed an answer's last token ...
    if record and position == "answer":
        branches[0] = answers[0]  # ... unless that is where it is observed
    ids, positions, mask = branch(queries, branches)  # (B, T), (B, T), (B, 1, T, T) or None
    end = torch.tensor([len(query) - 1 for query in queries])  # (B,) index of each query's last token
    at = end + len(answers[0]) if position == "answer" else end  # (B,)
    recorder = Recorder("output", "scores", "query", at=at.to(device)) if record else None
    mask = None if mask is None else mask.to(device)
    places, start = [end], end + 1  # start: (B,) index of a branch's first token
    for answer, tokens in zip(answers, branches, strict=True):
        places += [start + i for i in range(len(answer) - 1)]
        start = start + len(tokens)  # (B,)
    places = torch.stack(places, dim=1).to(device)  # (B, A) that an answer token follows, the query's first
    hidden = model.hidden(ids.to(device), prefix, recorder, positions, mask, at=places)  # (B, A, C)
    logits = model.logits(hidden)  # (B, A, V)
    mass = logits.logsumexp(-1)  # (B, A)
    columns, used = [], 1
    for answer in answers:
        follows = [0, *range(used, used + len(answer) - 1)]
        columns.append((logits[:, follows, answer] - mass[:, follows]).mean(-1))  # (B,)
        used += len(answer) - 1
    scored = torch.stack(columns, dim=1).cpu()  # (B, classes)
    if not scored.isfinite().all():
        raise NotFiniteError(
            f"the model's log-probabilities are not finite in {model.embed_tokens.weight.dtype}; "
            "its weights may be damaged, or the dtype too narrow for them"
        )
    return scored, _internals(recorder, prefix.length - opening, at + opening) if record else None


def _internals(recorder: Recorder, P: int, at: Tensor) -> Internals:
    """What a recorder kept of one batch; own tokens stop at the recorded position, since padding follows it."""
    scores = torch.stack(recorder.layers["scores"], dim=1).float()  # (B, L, H, P + T)
    query = torch.stack(recorder.layers["query"], dim=1).float()  # (B, L, H, D)
    return Internals(
        output=torch.stack(recorder.layers["output"], dim=1).float().cpu(),  # (B, L, C)
        scores=[row[:, :, P : P + int(stop) + 1].cpu() for row, stop in zip(scores, at, strict=True)],
        prefix_scores=scores[..., :P].sum(2).cpu(),  # (B, L, P)
        query=(query / query.shape[-1] ** 0.5).flatten(2).cpu(),  # (B, L, C)
        dtype=recorder.layers["output"][0].dtype,
    )


def collect(batches: Sequence[Batch], encoded: EncodedTask) -> Predictions:
    """Predictions from all batches of a stream, put back into the order of the evaluation split."""
    back = back_in_order([row for batch in batches for row in batch.rows])  # n
    log_probs = torch.cat([batch.log_probs for batch in batches])[back].float()  # (n, classes)
    recorded = batches[0].internals is not None
    internals = Internals.join([batch.internals for batch in batches])[back] if recorded else None
    return Predictions(log_probs, torch.tensor(encoded.labels), encoded.prompt, internals)
