"""Grids: many settings of the experiment in one call, stored as they finish, here or spread over a cluster.

A grid may be stopped at any moment, killed even. The same call then goes on where it stopped.
"""

import copy
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from iclnb.checkpoints import load
from iclnb.evaluate import NotFiniteError, Predictions, few_shot, queries_of, zero_shot
from iclnb.experiment import accuracy_entry, check_arguments, held_out, run_task
from iclnb.finetune import DivergedError, finetune
from iclnb.gpt import GPT
from iclnb.prompts import build_prompt
from iclnb.results import Results, fingerprint
from iclnb.tasks import Task, load_task

if TYPE_CHECKING:
    from distributed import Client

METHODS = ("icl", "ft", "compare")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run of a grid, all of it numbers and names, so that it can be stored and sent to another machine.

    Args:
        model: a name, folder or Hub id, as in iclnb.load.
        task, source: as in iclnb.load_task.
        method: "icl", few-shot prediction, which with k = 0 is zero-shot; "ft", zero-shot prediction after fine-tuning
            keys and values; or "compare", all of run_task.
        k, seed: demonstrations and their seed, as in few_shot.
        lr: for "ft" the learning rate; for "compare" that, "held-out" or "published"; for "icl" None.
        limit: evaluation examples; None is all.
        held_out: for "ft", how many training examples that are no demonstrations are predicted too.
        position: for "compare", as in few_shot.

    Raises:
        ValueError: an unknown method, or a learning rate that it does not take.
    """

    model: str
    task: str
    method: str
    source: str = "auto"
    k: int = 32
    seed: int = 1
    lr: float | str | None = None
    limit: int | None = None
    held_out: int = 0
    position: str = "query"

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; known are {', '.join(METHODS)}")
        number = isinstance(self.lr, int | float) and 0 < self.lr < math.inf
        if self.method == "icl" and self.lr is not None:
            raise ValueError(f"lr is {self.lr!r}; in-context learning has none")
        if self.method == "ft" and not number:
            raise ValueError(f"lr is {self.lr!r}; fine-tuning takes a positive number")
        if self.method == "compare" and not number and self.lr not in ("held-out", "published"):
            raise ValueError(f"lr is {self.lr!r}; a comparison takes a positive number, 'held-out' or 'published'")


def run_setting(setting: Setting) -> dict[str, Any]:
    """Compute one setting.

    Returns:
        For "compare" the record of run_task. Otherwise `n` examples, `k_used` demonstrations, `accuracy` with its 95 %
        interval `low` to `high` in percent, and `correct`, 0 or 1 for each example; for "ft" also `losses`, one a step,
        and with held-out examples `held_out_accuracy` and `held_out_correct`.

    Raises:
        DivergedError, NotFiniteError: fine-tuning diverged.
    """
    (model, tokenizer), task = loaded(setting.model), loaded_task(setting.task, setting.source)
    if setting.method == "compare":
        options = {"limit": setting.limit, "position": setting.position}
        return run_task(model, tokenizer, task, k=setting.k, seed=setting.seed, lr=setting.lr, **options)
    if setting.method == "icl":
        run = few_shot(model, tokenizer, task, setting.k, setting.seed, limit=setting.limit)
        return _entry(run) | {"k_used": run.prompt.k}
    tuned = finetune(model, tokenizer, task, setting.k, setting.seed, setting.lr)
    record = _entry(zero_shot(tuned.model, tokenizer, task, limit=setting.limit))
    if setting.held_out:
        judge = held_out(task, setting.k, setting.seed, setting.held_out)
        entry = _entry(zero_shot(tuned.model, tokenizer, judge))
        record |= {"held_out_accuracy": entry["accuracy"], "held_out_correct": entry["correct"]}
    return record | {"k_used": len(tuned.losses), "losses": tuned.losses}


def run_grid(
    settings: Sequence[Setting],
    results: Results,
    client: "Client | None" = None,
    compute: Callable[[Setting], dict[str, Any]] = run_setting,
) -> pd.DataFrame:
    """The records of many settings: those that are stored, and the others computed and stored one by one.

    A setting whose learning rate diverges has a record too: `diverged` says where, and it has no accuracy.

    Args:
        settings: what to run; a setting named twice is computed once.
        results: where records are found and stored.
        client: of a dask cluster, whose workers then do the computing, each with its own copy of the model: one worker
            for each GPU, one thread for each worker. A worker stores a record before it reports it, so that a worker or
            caller that is killed loses only what it was computing; where the workers have another file system, the
            caller stores what they report. None computes here, with a progress bar.
        compute: setting -> record. Another function than run_setting may take a subclass of Setting with more fields;
            it is known by its module and name, so change the name (or a field) when what it computes changes.

    Returns:
        One row a setting, in order, with the columns of Results.table.

    Raises:
        ValueError: a setting that cannot be run, before any is; or a folder that cannot be written to.
    """
    results.prepare()
    there = copy.copy(results)
    there.folder = results.folder.absolute()  # a worker may run in another folder
    known = {}
    for setting, (config, found) in _each(functools.partial(_look, there, compute), dict.fromkeys(settings), client):
        known[setting] = config, found
    missing = [setting for setting, (_, found) in known.items() if not found]
    quiet = not missing or bool(os.environ.get("TQDM_DISABLE"))  # which tqdm's notebook bar does not ask for
    size = {"total": len(known), "initial": len(known) - len(missing)}
    with tqdm(desc="grid", unit="setting", leave=False, disable=quiet, **size) as bar:
        for setting, record in _each(functools.partial(_work, there, compute), missing, client):
            config, _ = known[setting]
            if results.find(config) is None:
                results.save(config, record)
            bar.update()
    return results.table([known[setting][0] for setting in settings])


def configuration(setting: Setting, compute: Callable = run_setting) -> dict[str, Any]:
    """What the record of a setting is found by: the setting, and what model and examples really are."""
    weights, dtype = _identity(setting.model)
    return dataclasses.asdict(setting) | {
        "weights": weights,
        "dtype": dtype,
        "examples": _examples(setting.task, setting.source),
        "compute": f"{compute.__module__}.{compute.__qualname__}",
    }


@functools.lru_cache(maxsize=1)  # one model at a time: the next one may need the memory
def loaded(name: str) -> tuple[GPT, Any]:
    """iclnb.load, once in a process."""
    return load(name)


@functools.cache
def loaded_task(name: str, source: str) -> Task:
    """iclnb.load_task, once in a process."""
    return load_task(name, source)


def _each(function: Callable, settings: Iterable[Setting], client: "Client | None") -> Iterator[tuple[Setting, Any]]:
    """Each setting with function(setting): here and in order, or on the workers and as they finish."""
    if client is None:
        for setting in settings:
            yield setting, function(setting)
        return
    from distributed import as_completed

    settings = list(settings)
    futures = dict(zip(client.map(function, settings, pure=False), settings, strict=True))
    for future, value in as_completed(futures, with_results=True):
        yield futures[future], value


def _look(results: Results, compute: Callable, setting: Setting) -> tuple[dict[str, Any], bool]:
    """The configuration of a setting, and whether its record is stored; where it is not, whether it can be run."""
    config = configuration(setting, compute)
    found = results.find(config) is not None
    if not found:
        _check(setting)
    return config, found


def _work(results: Results, compute: Callable, setting: Setting) -> dict[str, Any]:
    """The record of a setting, stored; a worker may have stored it and died before it could report it."""
    config = configuration(setting, compute)
    record = results.find(config)
    if record is None:
        try:
            record = {"diverged": None} | compute(setting)
        except (DivergedError, NotFiniteError) as error:  # the last update may spoil the weights after the last loss
            record = {"accuracy": None, "diverged": str(error)}
        results.save(config, record)
    return record


def _check(setting: Setting) -> None:
    """Raise for whatever run_setting would refuse, before any long work."""
    (model, tokenizer), task = loaded(setting.model), loaded_task(setting.task, setting.source)
    if setting.method == "compare":
        check_arguments(model, tokenizer, task, setting.k, setting.seed, setting.lr, setting.limit)
    queries_of(task, setting.limit)
    build_prompt(model.config, tokenizer, task, setting.k, setting.seed)
    if setting.held_out:
        held_out(task, setting.k, setting.seed, setting.held_out)


def _entry(run: Predictions) -> dict[str, Any]:
    accuracy = accuracy_entry(run)
    interval = {"low": accuracy["low"], "high": accuracy["high"]}
    return {"n": len(run.labels), "accuracy": accuracy["mean"], **interval, "correct": run.correct.int().tolist()}


@functools.lru_cache(maxsize=1)
def _identity(name: str) -> tuple[str, str]:
    model, _ = loaded(name)
    return fingerprint(model), str(model.embed_tokens.weight.dtype).removeprefix("torch.")


@functools.cache
def _examples(name: str, source: str) -> str:
    return fingerprint(loaded_task(name, source))
