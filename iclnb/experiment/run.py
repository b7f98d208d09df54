"""The paper's experiment on one task: ZSL, FT and ICL, and the four measures with their controls, as one record."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from iclnb import intervals
from iclnb.experiment import compare
from iclnb.experiment.batching import back_in_order
from iclnb.experiment.calibrate import bias, calibrated
from iclnb.experiment.descent import DivergedError
from iclnb.experiment.finetune import PUBLISHED_SEED_AND_RATE, train_on
from iclnb.experiment.floors import REFERENCES, measures_with_floors
from iclnb.experiment.internals import Internals
from iclnb.experiment.predict import (
    Batch,
    NotFiniteError,
    Predictions,
    check_options,
    collect,
    predict,
    stream,
)
from iclnb.model.gpt import GPT
from iclnb.tasks.formats import PromptFormat, own_format
from iclnb.tasks.prompts import EncodedTask, encode_task
from iclnb.tasks.task import Task

RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
HELD_OUT = 200
SPLITS = ("held-out", "evaluation")
CONTROLS = {  # the paper's
    "sim_aou": "sim_aou_random",
    "sim_am": "sim_am_zsl",
    "kendall_tokens": "kendall_tokens_random",
    "kendall_demonstrations": "kendall_demonstrations_random",
}
CALLED = {  # controls and floors that are not named by what takes FT's place
    "sim_aou_random": "noise update (paper)",
    "sim_aou_random_zero_mean": "noise update, zero mean",
    "sim_aou: formula": "random state, expected",
    "sim_am_zsl": "before FT (paper)",
    "kendall_tokens_random": "random scores (paper)",
    "kendall_demonstrations_random": "random scores (paper)",
}


class Plan(NamedTuple):
    """What run_task works on, checked and encoded before any long work.

    `judge` are the held-out training examples that choose the learning rate, None where `lr` is a number.
    """

    encoded: EncodedTask
    judge: EncodedTask | None
    seed: int
    lr: float | str


def run_task(
    model: GPT,
    tokenizer: Any,
    task: Task,
    *,
    k: int = 32,
    seed: int | None = None,
    lr: float | str = "held-out",
    limit: int | None = None,
    prompt_format: PromptFormat | None = None,
    calibrate: bool = False,
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
        prompt_format, position, batch_size: as in few_shot.
        calibrate: add, under "calibrated", what the three ways answer after contextual calibration. The learning rate
            is chosen without it all the same.
        say: called with a line of progress before each part.

    Returns:
        A record of numbers, lists and strings: accuracies and measures with their floors and 95 % intervals over
        examples, measures by layer, and in "correct" which examples each way gets right.

    Raises:
        ValueError: bad arguments.
        DivergedError: fine-tuning diverged at every rate that was tried.
    """
    options = {"position": position, "batch_size": batch_size}
    same = {"k": k, "seed": seed, "lr": lr, "limit": limit, "prompt_format": prompt_format}
    plan = make_plan(model, tokenizer, task, **same, **options)
    encoded, lr, grid = plan.encoded, plan.lr, []
    if plan.judge is not None:
        say("choosing a learning rate on held-out training examples")
        grid = accuracy_by_rate(model, encoded.prompt.sequences, plan.judge, RATES, batch_size)
        lr = best_rate(grid)
    say(f"fine-tuning with lr = {lr:g}")
    tuned = train_on(model, encoded.prompt.sequences, lr, record=True)
    say("zero-shot, fine-tuned and in-context predictions")
    asked = ((model, encoded.zero_shot), (tuned.model, encoded.zero_shot), (model, encoded))  # ZSL, FT, ICL
    streams = (stream(student, questions, record=True, **options) for student, questions in asked)
    runs, found = measure_streams(*streams, encoded, tuned.queries, references_of(tuned.model, encoded, **options))
    record = {
        "n": len(encoded.queries),
        "k_used": encoded.prompt.k,
        "seed": plan.seed,
        "format": dataclasses.asdict(prompt_format or own_format(tokenizer)),
        "lr": lr,
        "grid": grid,
        **answers_entry(**runs),
        "measures": found,
    }
    if calibrate:
        free = [bias(student, questions, batch_size) for student, questions in asked]
        after = {name: calibrated(run, b) for (name, run), b in zip(runs.items(), free, strict=True)}
        record["calibrated"] = answers_entry(**after) | {"rec2ftp": rec2ftp_entry(**after)}
    return record


def make_plan(
    model: GPT,
    tokenizer: Any,
    task: Task,
    *,
    k: int,
    seed: int | None,
    lr: float | str,
    limit: int | None,
    prompt_format: PromptFormat | None,
    **options: Any,
) -> Plan:
    """The plan of run_task from its arguments; raises ValueError for whatever it would refuse."""
    seed, lr = resolve_seed_and_rate(task, seed, lr)
    check_options(**options)
    if k < 1:
        raise ValueError(f"k is {k}; comparing in-context learning with fine-tuning needs at least 1 demonstration")
    encoded, judge = encode_task(model.config, tokenizer, task, k, seed, limit, prompt_format), None
    if encoded.prompt.k < 1:
        raise ValueError(
            f"k is {k}, but no demonstration of task {task.name} fits beside its longest query in the model's "
            f"{model.config.n_positions} positions"
        )
    if lr == "held-out":
        most = HELD_OUT if limit is None else min(HELD_OUT, limit)  # no finer than what is asked for in the end
        apart = held_out(task, k, seed, most)
        judge = encode_task(model.config, tokenizer, apart, 0, seed, prompt_format=prompt_format)
    return Plan(encoded, judge, seed, lr)


def references_of(tuned: GPT, encoded: EncodedTask, **options: Any) -> Internals | None:
    """What fine-tuning does at the first examples, as floors.measures_with_floors wants it; options as in few_shot."""
    if len(encoded.queries) < 2:
        return None
    first = dataclasses.replace(encoded.zero_shot, queries=encoded.queries[:REFERENCES])
    return collect(list(stream(tuned, first, record=True, **options)), first).internals  # left where the model is


def measure_streams(
    zsl: Iterator[Batch],
    ft: Iterator[Batch],
    icl: Iterator[Batch],
    encoded: EncodedTask,
    queries: Sequence[Tensor],
    references: Internals | None,
) -> tuple[dict[str, Predictions], dict[str, Any]]:
    """Take three recorded runs batch by batch, so that no more than one batch of internals is ever held.

    The measures are taken where the internals are, on a GPU in float32.

    Args:
        zsl, ft, icl: streams over the same examples in the same batches.
        encoded: the task of the in-context run.
        queries: query vectors recorded during fine-tuning.
        references: as in floors.measures_with_floors.

    Returns:
        The predictions of each run, "zsl", "ft" and "icl", without internals; and what `measures` returns.
    """
    kept: dict[str, list[Batch]] = {"zsl": [], "ft": [], "icl": []}
    values: dict[str, list[Tensor]] = {}
    for z, f, i in zip(zsl, ft, icl, strict=True):
        trio = (z.internals, f.internals, i.internals)
        queries = [one.to(z.internals.query.device) for one in queries]  # copied with the first batch
        found = measures_with_floors(*trio, encoded.prompt.spans, queries, references, z.rows)
        for name, tensor in found.items():
            values.setdefault(name, []).append(tensor)  # (B, L), fewer rows for Kendall
        for batches, batch in zip(kept.values(), (z, f, i), strict=True):
            batches.append(dataclasses.replace(batch, internals=None))
    runs = {name: collect(batches, encoded if name == "icl" else encoded.zero_shot) for name, batches in kept.items()}
    rows = [row for batch in kept["zsl"] for row in batch.rows]  # n
    # (n, L) each, the first m rows for Kendall
    joined = {name: torch.cat(parts).double().cpu() for name, parts in values.items()}
    ordered = {name: x[back_in_order([row for row in rows if row < len(x)])] for name, x in joined.items()}
    return runs, _entries(**runs, found=ordered)


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
    prompt_format: PromptFormat | None = None,
    batch_size: int | None = None,
) -> list[dict[str, Any]]:
    """Accuracy of fine-tuning at each learning rate.

    Args:
        model, tokenizer, task, k, seed: as in finetune_attention.
        rates: learning rates.
        on: "held-out", the training examples after the first k in the shuffled order; or "evaluation", the evaluation
            split, which is how the paper chooses and is selection on the test data.
        limit: examples; None is all.
        prompt_format, batch_size: as in few_shot.

    Returns:
        For each rate {"lr", "accuracy"}; accuracy is None where fine-tuning diverged.

    Raises:
        ValueError: an unknown split, or bad arguments.
    """
    if on not in SPLITS:
        raise ValueError(f"on is {on!r}; accepted are {', '.join(map(repr, SPLITS))}")
    check_options("query", batch_size)
    encoded = encode_task(model.config, tokenizer, task, k, seed, limit, prompt_format)
    judge = encoded.zero_shot
    if on == "held-out":
        apart = held_out(task, k, seed, limit)
        judge = encode_task(model.config, tokenizer, apart, 0, seed, prompt_format=prompt_format)
    return accuracy_by_rate(model, encoded.prompt.sequences, judge, rates, batch_size)


def accuracy_by_rate(
    model: GPT, sequences: Sequence[list[int]], judge: EncodedTask, rates: Sequence[float], batch_size: int | None
) -> list[dict[str, Any]]:
    """rate_grid for training sequences and a task that are encoded already."""
    rows = []
    for lr in rates:
        try:
            accuracy = predict(train_on(model, sequences, lr).model, judge, batch_size=batch_size).accuracy
        except (DivergedError, NotFiniteError):  # the last update may spoil the weights after the last loss
            accuracy = None
        rows.append({"lr": lr, "accuracy": accuracy})
    return rows


def held_out(task: Task, k: int, seed: int, limit: int | None = HELD_OUT) -> Task:
    """The task with its evaluation split replaced by training examples that are no demonstrations.

    Raises:
        ValueError: limit is smaller than 1, or the train split has no example beyond the k demonstrations.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1, or None for all")
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
    return (100 * run.interval).entry()


def answers_entry(**runs: Predictions) -> dict[str, Any]:
    """Accuracies of runs on the same examples, their differences, and which answers are right."""
    return {
        "accuracy": {name: accuracy_entry(run) for name, run in runs.items()},
        "gaps": accuracy_gaps(**runs),
        "correct": {name: run.correct.int().tolist() for name, run in runs.items()},
    }


def accuracy_gaps(**runs: Predictions) -> dict[str, dict[str, float]]:
    """Differences in accuracy of runs on the same examples, one - other in points, paired, by "one-other"."""
    right = {name: 100 * run.correct.double() for name, run in runs.items()}  # (n,) each
    pairs = (("ft", "zsl"), ("icl", "zsl"), ("icl", "ft"))
    return {f"{a}-{b}": intervals.difference(right[a], right[b], over="examples").entry() for a, b in pairs}


def measures(zsl: Predictions, ft: Predictions, icl: Predictions, queries: Sequence[Tensor]) -> dict[str, Any]:
    """The four measures, their controls and floors, by name; each with mean and 95 % interval, and means by layer.

    Args:
        zsl, ft, icl: recorded runs on the same examples.
        queries: query vectors recorded during fine-tuning.
    """
    n, trio = len(zsl.labels), (zsl.internals, ft.internals, icl.internals)
    references = ft.internals[range(min(n, REFERENCES))] if n > 1 else None
    found = measures_with_floors(*trio, icl.prompt.spans, queries, references, range(n))
    return _entries(zsl, ft, icl, found)


def _entries(zsl: Predictions, ft: Predictions, icl: Predictions, found: dict[str, Tensor]) -> dict[str, Any]:
    """Rec2FTP, and the measures by example and layer."""
    return {"rec2ftp": rec2ftp_entry(zsl, ft, icl)} | layered_entries(found)


def rec2ftp_entry(zsl: Predictions, ft: Predictions, icl: Predictions) -> dict[str, Any]:
    """Rec2FTP with its two counts; its mean is None where it is undefined."""
    recall = compare.rec2ftp(zsl, ft, icl)
    return {"mean": recall.percent if recall.total else None, "both": recall.both, "total": recall.total}


def layered_entries(values: dict[str, Tensor]) -> dict[str, Any]:
    """By name of a measure, whose values are (n, L): its mean over examples and layers with its 95 % interval over
    examples, its means by layer, and under "above" the paired difference from its control and from each floor."""
    means = {name: found.mean(1) for name, found in values.items()}  # (n,) each
    entries = {name: intervals.mean(x, over="examples").entry() for name, x in means.items()}
    for name, found in values.items():
        entries[name]["layers"] = found.mean(0).tolist()
        if chances := chances_of(name, values):
            differences = {c: intervals.difference(means[name], means[c], over="examples").entry() for c in chances}
            entries[name]["above"] = differences
    return entries


def chances_of(name: str, known: Iterable[str]) -> list[str]:
    """Of these names those of a measure's controls and floors; none of what is one itself."""
    starts = (f"{name}: ", CONTROLS[name]) if name in CONTROLS else (f"{name}: ",)
    return [other for other in known if other.startswith(starts)]


def called(chance: str) -> str:
    """What a control or floor is called beside its measure."""
    return CALLED.get(chance) or chance.partition(": ")[2]
