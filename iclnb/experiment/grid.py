"""Grids: many settings of the experiment in one call, stored as they finish, here or spread over a cluster.

A grid may be stopped at any moment, killed even. The same call then goes on where it stopped.
"""

import copy
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from iclnb.experiment.calibrate import bias, calibrated
from iclnb.experiment.descent import DivergedError
from iclnb.experiment.finetune import train_on
from iclnb.experiment.predict import NotFiniteError, Predictions, check_options, predict
from iclnb.experiment.results import Results, fingerprint, source_of
from iclnb.experiment.run import accuracy_entry, held_out, make_plan, resolve_seed_and_rate, run_task
from iclnb.model.checkpoints import FETCHED, find_folder, load
from iclnb.model.gpt import GPT
from iclnb.paths import EMBEDDED, chosen_model, local_path, state
from iclnb.tasks.formats import PromptFormat
from iclnb.tasks.prompts import EncodedTask, encode_task
from iclnb.tasks.task import Task, choose_source, load_task

if TYPE_CHECKING:
    from distributed import Client

METHODS = ("icl", "ft", "compare")
LEAST = {"k": 0, "seed": 0, "limit": 1, "held_out": 0, "batch_size": 1}  # whole numbers, and what they are at least


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run of a grid, all of it numbers and names, so that it can be stored and sent to another machine.

    Paths become text, numbers of numpy and torch plain ones (the float32 0.05 is 0.05), and arrays tuples.

    Args:
        model: a name, folder or Hub id, as in iclnb.load.
        task, source: as in iclnb.load_task.
        method: "icl", few-shot prediction, which with k = 0 is zero-shot; "ft", zero-shot prediction after fine-tuning
            keys and values; or "compare", all of run_task.
        k, seed: demonstrations and their seed, as in few_shot.
        lr: for "ft" the learning rate; for "compare" that, "held-out" or "published"; for "icl" None.
        limit: evaluation examples; None is all.
        prompt_format: how the prompt is written; None is the model's own format.
        calibrate: add what is answered after contextual calibration, under "calibrated".
        held_out: for "ft", how many training examples that are no demonstrations are predicted too.
        position: for "compare", as in few_shot.
        device, dtype: as in iclnb.load.
        batch_size: as in few_shot.

    Raises:
        ValueError: an unknown method or position, a learning rate that the method does not take, a number that is too
            small, or what is no such number or text.
    """

    model: str
    task: str
    method: str
    source: str = "auto"
    k: int = 32
    seed: int = 1
    lr: float | str | None = None
    limit: int | None = None
    prompt_format: PromptFormat | None = None
    calibrate: bool = False
    held_out: int = 0
    position: str = "query"
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):  # those of a subclass too
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        for name in ("model", "task", "source"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a name or a path")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if (type(value) is not int or value < least) and (value is not None or name not in ("limit", "batch_size")):
                raise ValueError(f"{name} is {value!r}; it must be a whole number and at least {least}")
        if type(self.lr) is int:
            object.__setattr__(self, "lr", float(self.lr))  # stored under the same name as 1.0
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; known are {', '.join(METHODS)}")
        number = isinstance(self.lr, float) and 0 < self.lr < math.inf
        if self.method == "icl" and self.lr is not None:
            raise ValueError(f"lr is {self.lr!r}; in-context learning has none")
        if self.method == "ft" and not number:
            raise ValueError(f"lr is {self.lr!r}; fine-tuning takes a positive number")
        if self.method == "compare" and not number and self.lr not in ("held-out", "published"):
            raise ValueError(f"lr is {self.lr!r}; a comparison takes a positive number, 'held-out' or 'published'")
        check_options(self.position, self.batch_size)


def run_setting(setting: Setting, **progress: Any) -> dict[str, Any]:
    """Compute one setting.

    Args:
        setting: what to compute.
        progress: for "compare", `say` as in run_task.

    Returns:
        For "compare" the record of run_task. Otherwise `n` examples, `k_used` demonstrations, `accuracy` with its 95 %
        interval `low` to `high` in percent, and `correct`, 0 or 1 for each example; for "ft" also `losses`, one a step,
        and with held-out examples `held_out_accuracy` and `held_out_correct`.

    Raises:
        DivergedError, NotFiniteError: fine-tuning diverged.
    """
    if setting.method == "compare":
        return run_task(*_loaded(setting), calibrate=setting.calibrate, **_comparison(setting), **progress)
    model, encoded, judge = _encoded(setting)
    if setting.method == "icl":
        return _answered(model, encoded, setting) | {"k_used": encoded.prompt.k}
    tuned = train_on(model, encoded.prompt.sequences, setting.lr)
    record = _answered(tuned.model, encoded.zero_shot, setting)
    if judge is not None:
        entry = _entry(predict(tuned.model, judge, batch_size=setting.batch_size))
        record |= {"held_out_accuracy": entry["accuracy"], "held_out_correct": entry["correct"]}
    return record | {"k_used": encoded.prompt.k, "losses": tuned.losses}


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
            it is known by its name, so change the name (or a field) when what it computes changes.

    Returns:
        One row a setting, in order, with the columns of Results.table.

    Raises:
        ValueError: a setting that cannot be run, before any is; or a folder that cannot be written to.
    """
    results.check()
    _forget_edited()
    there = copy.copy(results)
    there.folder = results.folder.absolute()  # a worker may run in another folder
    known = dict(_each(functools.partial(look, there, compute=compute), dict.fromkeys(settings), client))
    missing = [setting for setting, (_, found) in known.items() if not found]
    quiet = not missing or bool(os.environ.get("TQDM_DISABLE"))  # which tqdm's notebook bar does not ask for
    size = {"total": len(known), "initial": len(known) - len(missing)}
    with tqdm(desc="grid", unit="setting", leave=False, disable=quiet, **size) as bar:
        for setting, record in _each(functools.partial(recorded, there, compute=compute), missing, client):
            results.get(known[setting][0], lambda record=record: record)
            bar.update()
    return results.table([known[setting][0] for setting in settings])


def look(results: Results, setting: Setting, compute: Callable = run_setting) -> tuple[dict[str, Any], bool]:
    """The configuration of a setting, and whether its record is stored.

    Raises:
        ValueError: it is not, and run_setting would refuse to compute it.
    """
    config = configuration(setting, compute)
    found = results.find(config) is not None
    if not found:
        _check(setting)
    return config, found


def recorded(
    results: Results, setting: Setting, compute: Callable[..., dict[str, Any]] = run_setting, **progress: Any
) -> dict[str, Any]:
    """The record of one setting, found or else computed and stored; arguments as in run_grid and run_setting."""

    def work() -> dict[str, Any]:
        try:
            return {"diverged": None} | compute(setting, **progress)
        except (DivergedError, NotFiniteError) as error:  # the last update may spoil the weights after the last loss
            return {"accuracy": None, "diverged": str(error)}

    return results.get(configuration(setting, compute), work)


def configuration(setting: Setting, compute: Callable = run_setting) -> dict[str, Any]:
    """What the record of a setting is found by: the setting, and what model, examples, seed and rate really are.

    Where it is computed, and in which batches, is left out: that changes no more than the last digits.
    """
    task = loaded_task(setting.task, setting.source)
    which = setting.model, setting.device, setting.dtype
    while (place := _place(*which)) not in _sources:  # more than once where a file changes just now
        loaded(*which)
    known = _sources[place] | {"examples": fingerprint(task)}
    config = dataclasses.asdict(setting) | {"source": task.source, "compute": compute.__name__} | known
    if setting.prompt_format is not None:  # else the model's own stands, which `known` says
        config["prompt_format"] = dataclasses.asdict(setting.prompt_format)
    if setting.method == "compare":
        config["seed"], config["lr"] = resolve_seed_and_rate(task, setting.seed, setting.lr)
    return {name: value for name, value in config.items() if name not in ("device", "batch_size")}


# ------------------------------------------------------------------------- models and tasks, once in a process

Place = tuple  # a model's name, device and dtype, and the state of its files
_held: dict[Place, tuple[GPT, Any]] = {}  # one model at a time: the next one may need the memory
_sources: dict[Place, dict[str, Any]] = {}  # results.source_of each model that was loaded


def loaded(name: str, device: str = "auto", dtype: str = "auto") -> tuple[GPT, Any]:
    """iclnb.load, once in a process for as long as its files stay as they are."""
    place = _place(name, device, dtype)
    if (held := _held.get(place)) is None:
        _held.clear()
        held = _held[place] = load(place[0], device, dtype)
        _sources[place] = source_of(*held)
    return held


def _place(name: str | Path, device: str, dtype: str) -> Place:
    name = chosen_model() if name == "auto" else str(name)
    here = name == EMBEDDED or name in FETCHED or os.path.exists(local_path(name))
    folder = find_folder(name) if here else _from_hub(name)
    return name, device, dtype, state([folder] if folder.is_file() else sorted(folder.iterdir()))


_from_hub = functools.cache(find_folder)  # asked once in a process, which stays with the revision that it began with


def _forget_edited() -> None:
    """Drop the model in memory where somebody has changed it since: a setting names what lies in its files."""
    for place, held in list(_held.items()):
        if source_of(*held) != _sources[place]:
            _held.clear()


def loaded_task(name: str, source: str | Path = "auto") -> Task:
    """iclnb.load_task, once in a process for as long as its files stay as they are."""
    source = choose_source(source)
    return _load_task(name, source, state(sorted(local_path(Path(source, name)).glob("*.jsonl"))))


@functools.lru_cache(maxsize=16)
def _load_task(name: str, source: str, files: tuple) -> Task:
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


def _loaded(setting: Setting) -> tuple[GPT, Any, Task]:
    """Model, tokenizer and task of a setting; the task first, which is the quicker to refuse."""
    task = loaded_task(setting.task, setting.source)
    return *loaded(setting.model, setting.device, setting.dtype), task


def _check(setting: Setting) -> None:
    """Raise ValueError for whatever run_setting would refuse, before any long work."""
    if setting.method == "compare":
        make_plan(*_loaded(setting), **_comparison(setting))
    else:
        _encoded(setting)


def _comparison(setting: Setting) -> dict[str, Any]:
    """The arguments that run_task plans with."""
    names = ("k", "seed", "lr", "limit", "prompt_format", "position", "batch_size")
    return {name: getattr(setting, name) for name in names}


def _encoded(setting: Setting) -> tuple[GPT, EncodedTask, EncodedTask | None]:
    """Model, task and held-out examples, if there are any, of a setting that is no comparison."""
    (model, tokenizer, task), judge = _loaded(setting), None
    encoded = encode_task(model.config, tokenizer, task, setting.k, setting.seed, setting.limit, setting.prompt_format)
    if setting.held_out:
        examples = held_out(task, setting.k, setting.seed, setting.held_out)
        judge = encode_task(model.config, tokenizer, examples, 0, setting.seed, prompt_format=setting.prompt_format)
    return model, encoded, judge


def _answered(model: GPT, encoded: EncodedTask, setting: Setting) -> dict[str, Any]:
    """What a model answers, and what after calibration where that is asked for."""
    run = predict(model, encoded, batch_size=setting.batch_size)
    if not setting.calibrate:
        return _entry(run)
    return _entry(run) | {"calibrated": _entry(calibrated(run, bias(model, encoded, setting.batch_size)))}


def _entry(run: Predictions) -> dict[str, Any]:
    accuracy = accuracy_entry(run)
    interval = {"low": accuracy["low"], "high": accuracy["high"]}
    return {"n": len(run.labels), "accuracy": accuracy["mean"], **interval, "correct": run.correct.int().tolist()}


def _plain(value: Any) -> Any:
    """A value in Python's own types: text for a path, a number for a scalar of numpy or torch, a tuple for an array."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Tensor):
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy(force=True)
    if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
        return float(str(value[()])) if value.dtype.kind == "f" else value.item()  # a float's text is the shortest
    return tuple(map(_plain, value)) if isinstance(value, list | tuple | range | np.ndarray) else value
