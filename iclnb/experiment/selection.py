"""Seed and learning rate as the paper chooses them, and the gate before fine-tuning (FT) is compared with anything.

The paper takes the seed, 1 to 7, at which in-context learning (ICL) is most accurate, and at that seed the learning
rate at which FT is. It does both on the evaluation split, which is selection on the test data; the same two steps on
training examples that no seed demonstrates are the honest way.

Source: Dai et al. 2023, section 4.1 and appendix B.

Letters: S seeds, R learning rates, n examples.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from iclnb import intervals
from iclnb.experiment.descent import DivergedError
from iclnb.experiment.finetune import train_on
from iclnb.experiment.grid import Setting, loaded, loaded_task, run_grid
from iclnb.experiment.predict import predict
from iclnb.experiment.results import Results
from iclnb.experiment.run import RATES, accuracy_entry
from iclnb.tasks.prompts import encode_task
from iclnb.tasks.task import Task

if TYPE_CHECKING:
    from distributed import Client

SEEDS = tuple(range(1, 8))


def paper_choice(icl: Tensor, ft: Tensor) -> tuple[int, int]:
    """The seed by the accuracy of ICL, then the rate by that of FT at this seed.

    Args:
        icl: accuracy at each seed, (S,).
        ft: accuracy at each seed and rate, rates from small to large, (S, R); nan where FT diverged.

    Returns:
        The places of seed and rate; of equals the first.

    Raises:
        DivergedError: FT diverged at every rate of this seed.
    """
    seed = _first_best(icl)
    return seed, _first_best(ft[seed])


def best_of_all(ft: Tensor) -> tuple[int, int]:
    """What if seed and rate were chosen together, by FT's accuracy alone? Arguments and result as in paper_choice."""
    seed, rate = divmod(_first_best(ft.flatten()), ft.shape[1])
    return seed, rate


def learnt(ft: intervals.Values, zsl: intervals.Values) -> bool:
    """Whether fine-tuning learnt: by McNemar's test, it has more of the same questions right than zero-shot (ZSL).

    Where it did not, a comparison of ICL with FT says nothing. Ask it of examples that did not choose the rate: on
    those that did, the test is too easily passed.

    Args:
        ft, zsl: whether each answer is right, (n,).
    """
    return intervals.flips(zsl, ft).word() == intervals.ABOVE


def at_edge(rate: float, rates: Sequence[float]) -> bool:
    """Whether a chosen rate is the smallest or largest that was tried, so that a better one may lie beyond."""
    return rate in (min(rates), max(rates))


class Answers(NamedTuple):
    """Which answers to n questions are right: 1 or 0, nan where FT diverged; `.mean(-1)` of each is its accuracy.

    Args:
        zsl: without demonstrations, (n,).
        icl: after the demonstrations of each seed, (S, n).
        ft: fine-tuned on them at each rate, (S, R, n).
    """

    zsl: Tensor
    icl: Tensor
    ft: Tensor


@dataclasses.dataclass(frozen=True)
class Candidate(Setting):
    """ICL or FT at one seed and rate, judged on both splits.

    Args:
        held_out: how many training examples are asked beside the evaluation split.
        seeds, most: none of the first `most` demonstrations of these seeds is held out, so that all candidates are
            asked the same.
    """

    seeds: tuple[int, ...] = SEEDS
    most: int = 32


def candidates(
    model: str, task: str, k: int = 32, seeds: Sequence[int] = SEEDS, rates: Sequence[float] = RATES, **options: Any
) -> list[Candidate]:
    """All that the paper chooses from: ZSL, ICL by seed, FT by seed and rate; settings for run_grid and its judge.

    Args:
        model, task, k: as in Setting.
        seeds, rates: of the grid.
        options: other entries of a Setting, such as limit and held_out.
    """
    same = {"model": model, "task": task, "k": k, "most": k, "seeds": tuple(seeds)} | options
    zsl = Candidate(method="icl", **same | {"k": 0})
    icl = [Candidate(method="icl", seed=seed, **same) for seed in seeds]
    return [zsl, *icl, *(Candidate(method="ft", seed=seed, lr=lr, **same) for seed in seeds for lr in rates)]


def answers(settings: Sequence[Candidate], results: Results, client: "Client | None" = None) -> dict[str, Answers]:
    """The answers of `candidates`, by split, "evaluation" and, with held-out examples, "held-out"; as in run_grid."""
    grid = run_grid(settings, results, client, compute=judge)
    count = len(settings[0].seeds)
    found = {}
    for split, column in (("evaluation", "correct"), ("held-out", "held_out_correct")):
        if column in grid:
            n = len(grid[column][0])
            rows = [row if isinstance(row, list) else [np.nan] * n for row in grid[column]]
            zsl, icl, ft = torch.tensor(rows, dtype=torch.double).split([1, count, len(rows) - 1 - count])  # (..., n)
            found[split] = Answers(zsl[0], icl, ft.unflatten(0, (count, -1)))
    return found


def judge(setting: Candidate) -> dict[str, Any]:
    """The record of a candidate: as of run_setting, and `held_out_correct` for ICL too.

    Raises:
        ValueError: no training example is left to hold out.
        DivergedError, NotFiniteError: fine-tuning diverged.
    """
    model, tokenizer = loaded(setting.model, setting.device, setting.dtype)
    task, k, seed = loaded_task(setting.task, setting.source), setting.k, setting.seed
    written = {"prompt_format": setting.prompt_format}
    encoded = {"": encode_task(model.config, tokenizer, task, k, seed, setting.limit, **written)}
    if setting.held_out:
        apart = held_apart(task, setting.most, setting.seeds, setting.held_out)
        encoded["held_out_"] = encode_task(model.config, tokenizer, apart, k, seed, **written)
    record = {"k_used": encoded[""].prompt.k}
    if setting.method == "ft":
        tuned = train_on(model, encoded[""].prompt.sequences, setting.lr)
        model, record["losses"] = tuned.model, tuned.losses
        encoded = {split: questions.zero_shot for split, questions in encoded.items()}
    for split, questions in encoded.items():
        run = predict(model, questions, batch_size=setting.batch_size)
        entry = accuracy_entry(run)
        record |= {f"{split}accuracy": entry["mean"], f"{split}correct": run.correct.int().tolist()}
        record |= {f"{split}{end}": entry[end] for end in ("low", "high")}
    return record


def held_apart(task: Task, k: int, seeds: Sequence[int], limit: int) -> Task:
    """The task with its evaluation split replaced by training examples that none of the seeds demonstrates.

    Raises:
        ValueError: none is left.
    """
    shown = {example for seed in seeds for example in task.demonstrations(k, seed)}
    rest = [example for example in task.demonstrations(len(task.train), 0) if example not in shown]
    if not rest:
        raise ValueError(
            f"seeds {list(seeds)} with k = {k} demonstrate all {len(task.train)} training examples of {task.name}; "
            "none is left to hold out"
        )
    return dataclasses.replace(task, evaluation=tuple(rest[:limit]))


def _first_best(accuracy: Tensor) -> int:
    """The place of the largest number, of equals the first; nan is none."""
    accuracy = accuracy.numpy(force=True)
    if np.isnan(accuracy).all():
        raise DivergedError("fine-tuning diverged at every learning rate that could be chosen")
    return int(np.nanargmax(accuracy))
