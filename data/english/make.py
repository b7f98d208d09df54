"""Makes the records beside it: the paper's experiment and its controls with smollm2, a GPT that reads English.

    python data/english/make.py compare --data DIR
    python data/english/make.py controls --data DIR
    python data/english/make.py prompts --data DIR

DIR holds the six real tasks, as `<task>/<split>.jsonl`. `compare` runs ZSL, FT and ICL with all measures and floors;
`controls` the untrained model, layer-causal descent, labels that say nothing and other orders; `prompts` accuracy by
number of demonstrations and by format. Each finished run is kept in --work, so that a command that was stopped goes on
where it stopped. With --seeds 2 only the runs of the first two seeds are made; a later call adds the others. With
--finished nothing is run, and what is finished is written. Delete a file of records to make it anew.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import transformers

from iclnb.experiment.bench import likeness
from iclnb.experiment.calibrate import bias, calibrated
from iclnb.experiment.controls import untrained
from iclnb.experiment.descent import FineTuned, descend
from iclnb.experiment.english import records_in
from iclnb.experiment.finetune import train_on
from iclnb.experiment.predict import Predictions, predict
from iclnb.experiment.results import Results, rounded
from iclnb.experiment.run import accuracy_by_rate, answers_entry, best_rate, measures, rec2ftp_entry
from iclnb.experiment.selection import held_apart
from iclnb.model.checkpoints import load
from iclnb.model.gpt import GPT
from iclnb.paths import write_whole
from iclnb.tasks.formats import PromptFormat, own_format
from iclnb.tasks.prompts import EncodedTask, encode_task
from iclnb.tasks.task import TASKS, Task, load_task
from iclnb.tasks.variants import frozen, partly_right

MODEL = "smollm2"
K = dict.fromkeys(TASKS, 32) | {"cb": 19, "agnews": 22}  # what fits the paper's 2,048 positions
SEEDS = (1, 2, 3, 4, 5)
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
N = 200  # evaluation examples; cb has 56
HELD_OUT = 100
FORMATS = {"own": None, "line": PromptFormat("<|endoftext|>", "\n"), "paper": PromptFormat()}


class Experiment:
    """The runs with one model on the real tasks; what several records need is computed once.

    Args:
        data: folder of the six tasks.
        work: folder of the finished runs.
        known: records that are there already.
        finished: run nothing; a run that is not finished has no record.
    """

    def __init__(self, data: Path, work: Path, known: Sequence[dict[str, Any]] = (), finished: bool = False):
        self.model, self.tokenizer = load(MODEL, device="cpu", dtype="float32")
        self.data, self.results, self.known, self.finished = data, Results(work), known, finished
        self.task, self.asked = cache(self._task), cache(self._asked)

    def stored(self, kind: str, task: str, compute: Callable[[], dict], **which: Any) -> dict[str, Any] | None:
        """A record, found by its kind, task and whatever tells it from others, or else computed and timed."""
        config = {"kind": kind, "task": task, "n": N, "model": MODEL} | which
        for record in self.known:
            if config.items() <= record.items():
                return record

        if self.finished:
            return self.results.find(config)

        def timed() -> dict[str, Any]:
            start = time.process_time()
            return config | compute() | {"cpu_seconds": round(time.process_time() - start)}

        return self.results.get(config, timed)

    def rate(self, name: str) -> dict[str, Any]:
        """The learning rate of a task, the best on training examples that no seed demonstrates."""

        def compute() -> dict[str, Any]:
            judge = self.encoded(held_apart(self.task(name), K[name], SEEDS, HELD_OUT), k=0)
            sequences = self.encoded(self.task(name), K[name], SEEDS[0]).prompt.sequences
            grid = accuracy_by_rate(self.model, sequences, judge, RATES, None)
            return {"grid": grid, "lr": best_rate(grid), "held_out": len(judge.queries)}

        return self.stored("rate", name, compute)

    def compare(self, name: str, seed: int) -> dict[str, Any]:
        """ZSL, FT and ICL with all measures, before and after calibration."""
        return self.stored("compare", name, partial(self._compare, self.model, name, seed), seed=seed)

    def untrained(self, name: str, seed: int) -> dict[str, Any]:
        """The same for a model of this shape that never learnt anything."""
        return self.stored("untrained", name, lambda: self._compare(untrained(self.model, seed), name, seed), seed=seed)

    def layer_causal(self, name: str, seed: int) -> dict[str, Any]:
        """Descent in which no layer learns from a later one, held against ICL."""

        def compute() -> dict[str, Any]:
            icl = self.encoded(self.task(name), K[name], seed)
            lr = self.rate(name)["lr"]
            tuned = descend(self.model, [[ids] for ids in icl.prompt.sequences], lr, layer_causal=True)
            zsl, (ft, _), (shot, _) = (
                self.asked(name)[0],
                self._ask(tuned.model, icl.zero_shot),
                self._ask(self.model, icl),
            )
            found = likeness(zsl.internals, ft.internals, shot.internals)
            return {"lr": lr, "measures": found} | answers_entry(zsl=zsl, ft=ft, icl=shot)

        return self.stored("layer-causal", name, compute, seed=seed)

    def labels(self, name: str, seed: int) -> dict[str, Any]:
        """ICL where labels say nothing: right as often as guessing is."""
        k, classes = K[name], len(self.task(name).answers)
        task = partly_right(self.task(name), k, seed, round(k / classes))
        return self.stored("labels", name, lambda: self.icl(task, k, seed), seed=seed)

    def order(self, name: str, order: int) -> dict[str, Any]:
        """ICL with the first seed's demonstrations in another order."""
        task = frozen(self.task(name), K[name], SEEDS[0])
        return self.stored("order", name, lambda: self.icl(task, K[name], order), order=order)

    def prompt(self, name: str, k: int, written: str, seed: int) -> dict[str, Any]:
        """ICL with k demonstrations in one format."""

        def compute() -> dict[str, Any]:
            return self.icl(self.task(name), k, seed, FORMATS[written])

        return self.stored("prompt", name, compute, seed=seed, k=k, written=written)

    def example(self, name: str) -> dict[str, Any]:
        """A short prompt as the model reads it, and what it answers."""

        def compute() -> dict[str, Any]:
            task = self.task(name)
            encoded = self.encoded(task, 3)
            answered = predict(self.model, encoded).predicted[0]
            text = self.tokenizer.decode(encoded.prompt.prefix + encoded.queries[0])
            return {"prompt": text, "gold": task.answers[encoded.labels[0]], "answered": task.answers[answered]}

        return self.stored("example", name, compute)

    def icl(self, task: Task, k: int, seed: int, prompt_format: PromptFormat | None = None) -> dict[str, Any]:
        """Which answers are right, before and after calibration."""
        encoded = self.encoded(task, k, seed, prompt_format)
        run, free = self._ask(self.model, encoded, record=False)
        after = calibrated(run, free)
        answered = run.predicted.bincount(minlength=len(task.answers)).tolist()
        entry = {"correct": run.correct.int().tolist(), "answered": answered, "accuracy": 100 * run.accuracy}
        after = {"correct": after.correct.int().tolist(), "accuracy": 100 * after.accuracy}
        return entry | {"k_used": encoded.prompt.k, "calibrated": after}

    def encoded(self, task: Task, k: int, seed: int = 1, prompt_format: PromptFormat | None = None) -> EncodedTask:
        """The first N queries of a task with k demonstrations."""
        return encode_task(self.model.config, self.tokenizer, task, k, seed, N, prompt_format)

    def _task(self, name: str) -> Task:
        return load_task(name, self.data)

    def _asked(self, name: str) -> tuple[Predictions, torch.Tensor]:
        """Zero-shot, once a task."""
        return self._ask(self.model, self.encoded(self.task(name), k=0))

    def _ask(self, model: GPT, encoded: EncodedTask, record: bool = True) -> tuple[Predictions, torch.Tensor]:
        """Predictions, and what the model says without content."""
        return predict(model, encoded, record=record), bias(model, encoded)

    def _compare(self, model: GPT, name: str, seed: int) -> dict[str, Any]:
        icl, lr = self.encoded(self.task(name), K[name], seed), self.rate(name)["lr"]
        tuned: FineTuned = train_on(model, icl.prompt.sequences, lr, record=True)
        zsl = self.asked(name) if model is self.model else self._ask(model, icl.zero_shot)
        asked = {"zsl": zsl, "ft": self._ask(tuned.model, icl.zero_shot), "icl": self._ask(model, icl)}
        runs = {way: run for way, (run, _) in asked.items()}
        after = {way: calibrated(run, free) for way, (run, free) in asked.items()}
        return {
            "seed": seed,
            "lr": lr,
            "k_used": icl.prompt.k,
            "format": dataclasses.asdict(own_format(self.tokenizer)),
            **answers_entry(**runs),
            "measures": measures(*runs.values(), tuned.queries),
            "calibrated": answers_entry(**after) | {"rec2ftp": rec2ftp_entry(**after)},
            "losses": tuned.losses,
        }


Records = Iterator[dict[str, Any]]


def compare(experiment: Experiment, seeds: Sequence[int]) -> Records:
    """The records of `compare`, one seed of all tasks after the other."""
    yield from (experiment.rate(name) for name in TASKS)
    yield from (experiment.compare(name, seed) for seed in seeds for name in TASKS)


def controls(experiment: Experiment, seeds: Sequence[int]) -> Records:
    """The records of `controls`."""
    yield from (experiment.labels(name, seed) for seed in seeds for name in TASKS)
    yield from (experiment.untrained(name, seed) for seed in seeds[:1] for name in TASKS)
    yield from (experiment.layer_causal(name, seed) for seed in seeds[:1] for name in TASKS)
    yield from (experiment.order(name, order) for order in seeds for name in TASKS)


def prompts(experiment: Experiment, seeds: Sequence[int]) -> Records:
    """The records of `prompts`."""
    yield experiment.example("sst2")
    for seed in seeds:
        yield from (experiment.prompt("sst2", k, written, seed) for k in (1, 4, 16) for written in FORMATS)
        yield from (experiment.prompt("agnews", k, "own", seed) for k in (1, 4, 16))


COMMANDS = {"compare": compare, "controls": controls, "prompts": prompts}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and write its file of records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the six tasks")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many of the seeds")
    parser.add_argument("--finished", action="store_true", help="run nothing, write what is finished")
    parser.add_argument("--work", type=Path, default=Path("build/english"), help="folder of the finished runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the records")
    options = parser.parse_args(arguments)
    file, records = options.out / f"{options.command}.json", []
    before = json.loads(file.read_text())["records"] if file.exists() else []
    experiment = Experiment(options.data, options.work, records_in(options.out), options.finished)
    for record in filter(None, COMMANDS[options.command](experiment, SEEDS[: options.seeds])):
        records.append(rounded(record))
        which = " ".join(str(record[name]) for name in ("kind", "task", "seed", "order", "k") if name in record)
        print(f"{time.strftime('%H:%M')} {which}: {record['cpu_seconds']} s", flush=True)
    of_today = {"model": MODEL, "n": N}.items()
    records += [r for r in before if of_today <= r.items() and r not in records]  # those that were not asked for
    versions = {"torch": torch.__version__.partition("+")[0], "transformers": transformers.__version__}
    content = {"model": MODEL, "versions": versions, "records": records}
    write_whole(file, (json.dumps(content) + "\n").encode())


if __name__ == "__main__":
    main()
