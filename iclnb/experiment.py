"""The paper's experiment on one task: ZSL, FT and ICL, and the four measures with their controls, as one record."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iclnb import compare
from iclnb.evaluate import Batch, NotFiniteError, Predictions, collect, queries_of, stream, zero_shot
from iclnb.finetune import PUBLISHED_SEED_AND_RATE, DivergedError, finetune, train_on, training_sequences
from iclnb.gpt import GPT
from iclnb.prompts import Prompt, build_prompt
from iclnb.tasks import Task

RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
HELD_OUT = 200


def run_task(
    model: GPT,
    tokenizer: Any,
    task: Task,
    *,
    k: int = 32,
    seed: int | None = None,
    lr: float | str = "held-out",
    limit: int | None = None,
    position: str = "query",
    batch_size: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Compare in-context learning and fine-tuning on one task.

    Args:
        model, tokenizer, task: from iclnb.load and iclnb.load_task.
        k: demonstrations wanted; the record's `k_used` says how many fitted.
        seed: of the demonstrations; None is 1, or with lr "published" the published one.
        lr: a learning rate; "held-out", the best of RATES on training examples that are no demonstrations, as many as
            are evaluated but no more than 200; or "published", the rate of the 1.3B model.
        limit: evaluation examples; None is all.
        position, batch_size: as in few_shot.
        say: called with a line of progress before each part.

    Returns:
        A record of numbers, lists and strings: accuracies and measures with 95 % intervals, measures by layer.

    Raises:
        ValueError: bad arguments.
        DivergedError: fine-tuning diverged at every rate that was tried.
    """
    seed, lr = resolve_seed_and_rate(task, seed, lr)
    grid = []
    if lr == "held-out":
        say("choosing a learning rate on held-out training examples")
        most = HELD_OUT if limit is None else min(HELD_OUT, limit)  # no finer than what is asked for in the end
        grid = rate_grid(model, tokenizer, task, k, seed, limit=most, batch_size=batch_size)
        lr = best_rate(grid)
    say(f"fine-tuning with lr = {lr:g}")
    tuned = finetune(model, tokenizer, task, k, seed, lr, record=True)
    say("zero-shot, fine-tuned and in-context predictions")
    icl_prompt, zsl_prompt = (build_prompt(model.config, tokenizer, task, shots, seed) for shots in (k, 0))
    options = {"limit": limit, "record": True, "position": position, "batch_size": batch_size}
    batches, found = measure_streams(
        stream(model, tokenizer, task, zsl_prompt, **options),
        stream(tuned.model, tokenizer, task, zsl_prompt, **options),
        stream(model, tokenizer, task, icl_prompt, **options),
        icl_prompt,
        tuned.queries,
    )
    prompts = {"zsl": zsl_prompt, "ft": zsl_prompt, "icl": icl_prompt}
    runs = {name: collect(batches[name], task, prompt) for name, prompt in prompts.items()}
    return {
        "n": len(runs["zsl"].labels),
        "k_used": icl_prompt.k,
        "seed": seed,
        "lr": lr,
        "grid": grid,
        "accuracy": {name: accuracy_entry(run) for name, run in runs.items()},
        "measures": recall_entry(**runs) | found,
    }


def measure_streams(
    zsl: Iterator[Batch], ft: Iterator[Batch], icl: Iterator[Batch], prompt: Prompt, queries: Sequence[Tensor]
) -> tuple[dict[str, list[Batch]], dict[str, Any]]:
    """Take three recorded runs batch by batch, so that no more than one batch of internals is ever held.

    Args:
        zsl, ft, icl: streams over the same examples in the same batches.
        prompt: of the in-context run.
        queries: query vectors recorded during fine-tuning.

    Returns:
        The batches of each run, "zsl", "ft" and "icl", without internals; and the measures as `measures` gives them.
    """
    kept = {"zsl": [], "ft": [], "icl": []}
    values: dict[str, list[Tensor]] = {}
    for z, f, i in zip(zsl, ft, icl, strict=True):
        found = compare.all_measures(z.internals, f.internals, i.internals, prompt.spans, queries, z.rows)
        for name, tensor in found.items():
            values.setdefault(name, []).append(tensor)  # (B, L), fewer rows for Kendall
        for name, batch in (("zsl", z), ("ft", f), ("icl", i)):
            kept[name].append(dataclasses.replace(batch, internals=None))
    rows = [row for batch in kept["zsl"] for row in batch.rows]  # n
    return kept, {name: layered_entry(_in_order(torch.cat(parts), rows)) for name, parts in values.items()}


def _in_order(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Values (m, L) of the examples `rows` below m, or of all, in the order of the evaluation split."""
    mine = [row for row in rows if row < len(values)] if len(values) < len(rows) else rows
    return values[sorted(range(len(mine)), key=mine.__getitem__)]


def resolve_seed_and_rate(task: Task, seed: int | None, lr: float | str) -> tuple[int, float | str]:
    """Seed and rate with the published ones filled in where `lr` is "published".

    Raises:
        ValueError: lr is neither a positive number nor "held-out" or "published".
    """
    if lr == "published":
        published_seed, lr = PUBLISHED_SEED_AND_RATE[task.name]
        return (published_seed if seed is None else seed), lr
    if lr != "held-out" and not (isinstance(lr, int | float) and 0 < lr < math.inf):
        raise ValueError(f"lr is {lr!r}; accepted are a positive number, 'held-out' or 'published'")
    return (1 if seed is None else seed), lr


def rate_grid(
    model: GPT,
    tokenizer: Any,
    task: Task,
    k: int,
    seed: int,
    rates: Sequence[float] = RATES,
    *,
    on: str = "held-out",
    limit: int | None = HELD_OUT,
    batch_size: int | None = None,
) -> list[dict[str, Any]]:
    """Accuracy of fine-tuning at each learning rate.

    Args:
        model, tokenizer, task, k, seed: as in finetune_attention.
        rates: learning rates.
        on: "held-out", the training examples after the first k in the shuffled order; or "evaluation", the evaluation
            split, which is how the paper chooses and is selection on the test data.
        limit: examples; None is all.
        batch_size: as in few_shot.

    Returns:
        For each rate {"lr", "accuracy"}; accuracy is None where fine-tuning diverged.
    """
    judge = held_out(task, k, seed, limit) if on == "held-out" else task
    sequences, rows = training_sequences(model, tokenizer, task, k, seed), []
    for lr in rates:
        try:
            student = train_on(model, sequences, lr).model
            accuracy = zero_shot(student, tokenizer, judge, limit=limit, batch_size=batch_size).accuracy
        except (DivergedError, NotFiniteError):  # the last update may spoil the weights after the last loss
            accuracy = None
        rows.append({"lr": lr, "accuracy": accuracy})
    return rows


def held_out(task: Task, k: int, seed: int, limit: int | None = HELD_OUT) -> Task:
    """The task with its evaluation split replaced by training examples that are no demonstrations.

    Raises:
        ValueError: the train split has no example beyond the k demonstrations.
    """
    if k >= len(task.train):
        raise ValueError(
            f"k is {k}, which leaves none of the {len(task.train)} training examples of {task.name} to hold out"
        )
    end = len(task.train) if limit is None else min(len(task.train), k + limit)
    return dataclasses.replace(task, evaluation=tuple(task.demonstrations(end, seed)[k:]))


def best_rate(grid: Sequence[dict[str, Any]]) -> float:
    """The rate with the highest accuracy, the smallest of equals.

    Raises:
        DivergedError: every rate diverged.
    """
    finished = [row for row in grid if row["accuracy"] is not None]
    if not finished:
        raise DivergedError(f"fine-tuning diverged at every learning rate of {[row['lr'] for row in grid]}")
    return max(finished, key=lambda row: (row["accuracy"], -row["lr"]))["lr"]


def accuracy_entry(run: Predictions) -> dict[str, float]:
    """Accuracy of a run with its 95 % interval, all in percent."""
    low, high = run.interval
    return {"mean": 100 * run.accuracy, "low": 100 * low, "high": 100 * high}


def measures(zsl: Predictions, ft: Predictions, icl: Predictions, queries: Sequence[Tensor]) -> dict[str, Any]:
    """The four measures and their controls, by name; each with mean and 95 % interval, and means by layer.

    Args:
        zsl, ft, icl: recorded runs on the same examples.
        queries: query vectors recorded during fine-tuning.
    """
    rows = range(len(zsl.labels))
    found = compare.all_measures(zsl.internals, ft.internals, icl.internals, icl.prompt.spans, queries, rows)
    return recall_entry(zsl, ft, icl) | {name: layered_entry(values) for name, values in found.items()}


def recall_entry(zsl: Predictions, ft: Predictions, icl: Predictions) -> dict[str, Any]:
    """Rec2FTP with its two counts; its mean is None where it is undefined."""
    recall = compare.rec2ftp(zsl, ft, icl)
    return {"rec2ftp": {"mean": recall.percent if recall.total else None, "both": recall.both, "total": recall.total}}


def layered_entry(values: Tensor) -> dict[str, Any]:
    """Mean over examples and layers of (n, L) values, its 95 % interval by bootstrap over examples, means by layer."""
    low, high = bootstrap_interval(values.mean(1).numpy())
    return {"mean": values.mean().item(), "low": low, "high": high, "layers": values.mean(0).tolist()}


def bootstrap_interval(values: np.ndarray, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of (n,) values: percentiles over means of examples drawn with replacement."""
    rng = np.random.default_rng(seed)
    means = rng.choice(values, size=(draws, len(values)), replace=True).mean(1)  # (draws,)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def check_arguments(model: GPT, tokenizer: Any, task: Task, k: int, seed: int | None, lr, limit: int | None) -> None:
    """Raise for whatever run_task would refuse, before any long work."""
    seed, lr = resolve_seed_and_rate(task, seed, lr)
    queries_of(task, limit)
    if k < 1:
        raise ValueError(f"k is {k}; comparing in-context learning with fine-tuning needs at least 1 demonstration")
    if build_prompt(model.config, tokenizer, task, k, seed).k < 1:
        raise ValueError(
            f"k is {k}, but no demonstration of task {task.name} fits beside its longest query in the model's "
            f"{model.config.n_positions} positions"
        )
    if lr == "held-out":
        held_out(task, k, seed)
