"""Plain attention against momentum attention, trained alike: the stored comparison of notebooks 07 and 08.

`python -m iclnb.study --out data/momentum` trains models on the synthetic language, and with --text FILE also on
English; one record a model. All arms of a seed begin with the same weights and see the same batches in the same order.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from iclnb.corpus import CURRICULUM, Corpus, size
from iclnb.evaluate import few_shot
from iclnb.gpt import GPT
from iclnb.paths import data_folder, write_whole
from iclnb.perplexity import loss_by_position, perplexity
from iclnb.pretrain import Measurement, make_config, with_arbitrary_answers
from iclnb.tasks import TASKS, load_task
from iclnb.text import TextFile
from iclnb.training import Schedule, train
from iclnb.vocabulary import build_tokenizer

LANGUAGE, ENGLISH = "language", "english"
PHASES = CURRICULUM[:7]  # pocket-gpt's, up to labelled phrases: two fifths of its steps, a quarter of its tokens
ENGLISH_STEPS = 400
LONGER = 1.1  # at this size a step with momentum takes so many times as long at most (benchmarks/momentum.py)
LONG = 4  # to see whether a lead lasts
LEARNED = {"momentum": 0.5, "learn_momentum": True}
ETAS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
ARMS: dict[str, dict[str, Any]] = {  # what is put into GPTConfig
    "plain": {},
    "learned": LEARNED,
    "longer": {},
    "plain-long": {},
    "learned-long": LEARNED,
    **{f"eta-{eta}": {"momentum": eta} for eta in ETAS},
}
STEPS = {"longer": LONGER, "plain-long": LONG, "learned-long": LONG}  # times as many as the other arms
MAIN = {LANGUAGE: ("plain", "learned"), ENGLISH: ("plain", "learned", "eta-0.5", "longer")}  # with every seed
ONCE = {
    LANGUAGE: (),
    ENGLISH: (*(f"eta-{eta}" for eta in ETAS if eta != 0.5), "plain-long", "learned-long"),
}  # with one
CONTEXTS = {LANGUAGE: (32, 64, 128, 256), ENGLISH: (64, 128, 256, 512)}  # tokens; the last is beyond what was trained
QUERIES, K = 200, 16
HELD_OUT_ROWS, HELD_OUT_TOKENS = 200, 2**15


class Language:
    """The synthetic language as training data: the phases, and documents that no training sees."""

    def __init__(self, seed: int):
        self.tokenizer, self.steps = build_tokenizer(), size(PHASES)[0]
        self.batches = Corpus(self.tokenizer, self.steps, seed, PHASES)
        self.measure, self.every = Measurement(self.tokenizer), 200
        self.tasks = [load_task(name, "sample") for name in TASKS]

    def held_out(self, context: int) -> Tensor:
        """Documents of the last phase behind each other, each starting a window, (rows * T,) int."""
        phase = replace(PHASES[-1], sequences=HELD_OUT_ROWS, length=context)
        return Corpus(self.tokenizer, 1, seed=-1).rows(0, phase)[0].flatten()  # (rows * T,)

    def accuracy(self, model: GPT) -> dict[str, dict[str, int]]:
        """For each task how many of its queries are answered rightly: zero-shot, in context, and in context with
        arbitrary answers, which only the demonstrations can tell."""
        found = {}
        for task in self.tasks:
            runs = {"zero-shot": (task, 0), "in context": (task, K), "arbitrary": (with_arbitrary_answers(task), K)}
            found[task.name] = {
                name: int(few_shot(model, self.tokenizer, t, k, limit=QUERIES).correct.sum())
                for name, (t, k) in runs.items()
            }
            found[task.name]["queries"] = min(QUERIES, len(task.evaluation))
        return found


class English:
    """A text file as training data, and its last tenth, which no training sees."""

    def __init__(self, file: str | Path, seed: int):
        self.batches = TextFile(file, seed=seed)
        self.tokenizer, self.steps, self.every = self.batches.tokenizer, ENGLISH_STEPS, 50
        self._part = self.batches.held_out[: 64 * self.batches.context + 1]

    def measure(self, model: GPT) -> dict[str, float]:
        """Perplexity of a part of the held-out text."""
        return {"perplexity": perplexity(model, self._part, self.batches.context).value}

    def held_out(self, context: int) -> Tensor:
        """A part of the held-out text, the same for every context, (M,) int."""
        return self.batches.held_out[:HELD_OUT_TOKENS]

    def accuracy(self, model: GPT) -> dict:
        """None: so small a model of English does not do the tasks."""
        return {}


def run(data: Language | English, arm: str, seed: int, folder: Path, progress: bool = True) -> dict[str, Any]:
    """Train one model, measure it, and keep nothing of it but the record.

    Args:
        data: with the same seed.
        arm: of ARMS.
        seed: of the weights.
        folder: where the checkpoint of the running training lies, to continue it after a kill.
        progress: show a progress bar.

    Returns:
        "training": named columns, one entry a measurement; "perplexity": context -> value with its interval;
        "by_position": named columns of loss_by_position; "accuracy": correct answers by task; "eta": (L, H) as lists,
        where it is learned.
    """
    kind = LANGUAGE if isinstance(data, Language) else ENGLISH
    config, steps = make_config(data.tokenizer, **ARMS[arm]), round(data.steps * STEPS.get(arm, 1))
    folder.mkdir(parents=True, exist_ok=True)
    model = GPT(config).initialise(seed)
    rows = train(
        model,
        data.batches,
        Schedule(steps),
        folder=folder,
        resume=True,
        identity={"arm": arm, "seed": seed, "data": kind},
        measure=data.measure,
        measure_at=lambda step: step % data.every == 0,
        progress=progress,
    )
    return describe(model, data, rows)


def describe(model: GPT, data: Language | English, rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The record of a trained model: what `run` returns."""
    kind = LANGUAGE if isinstance(data, Language) else ENGLISH
    found = {context: perplexity(model, data.held_out(context), context) for context in CONTEXTS[kind]}
    longest = max(CONTEXTS[kind])
    return rounded(
        {
            "training": {name: [row[name] for row in rows] for name in rows[0]},
            "perplexity": {str(T): {"value": p.value, "low": p.low, "high": p.high} for T, p in found.items()},
            "by_position": loss_by_position(model, data.held_out(longest), longest).to_dict("list"),
            "accuracy": data.accuracy(model),
            "eta": learned_momentum(model),
        }
    )


def learned_momentum(model: GPT) -> list[list[float]]:
    """The learned eta of each layer and head, (L, H) as lists; empty where none is learned."""
    return [block.attn.momentum.eta().tolist() for block in model.blocks if model.config.learn_momentum]


def rounded(value: Any) -> Any:
    """The record with its numbers to four decimals."""
    if isinstance(value, dict):
        return {name: rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return round(value, 4) if isinstance(value, float) else value


def settings(kind: str, seeds: int) -> list[tuple[str, int]]:
    """The models of a study, (arm, seed) each."""
    return [(arm, seed) for seed in range(seeds) for arm in MAIN[kind]] + [(arm, 0) for arm in ONCE[kind]]


def stored(folder: Path | None = None) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The stored records, by data, arm and seed.

    Args:
        folder: of the records; None is the one that comes with iclnb.
    """
    files = sorted((folder or data_folder() / "momentum").glob("*_*_*.json"))
    records = {tuple(file.stem.split("_")): json.loads(file.read_text()) for file in files}
    return {(kind, arm, int(seed)): record for (kind, arm, seed), record in records.items()}


def by_seed(
    records: dict[tuple[str, str, int], dict[str, Any]], kind: str, arm: str, value: Callable[[dict], float]
) -> list[float]:
    """A number of every record of an arm, in the order of the seeds."""
    seeds = sorted(seed for data, name, seed in records if (data, name) == (kind, arm))
    return [value(records[kind, arm, seed]) for seed in seeds]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m iclnb.study", description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="folder of the records; those that are there are kept")
    parser.add_argument("--text", type=Path, help="a text file; without it only the synthetic language is studied")
    parser.add_argument("--only", choices=(LANGUAGE, ENGLISH), help="one of the two (default: both)")
    parser.add_argument("--seeds", type=int, default=3, help="of each main arm (default 3)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the models are too small for more; another number rounds otherwise
    kinds = [kind for kind in (LANGUAGE, ENGLISH) if options.only in (None, kind)]
    if ENGLISH in kinds and options.text is None:
        kinds.remove(ENGLISH)
    todo = [(kind, arm, seed) for kind in kinds for arm, seed in settings(kind, options.seeds)]
    for kind, arm, seed in tqdm(todo, unit="model"):
        file = options.out / f"{kind}_{arm}_{seed}.json"
        if file.exists():
            continue
        folder = file.with_suffix(".training")
        data = Language(seed) if kind == LANGUAGE else English(options.text, seed)
        write_whole(file, json.dumps(run(data, arm, seed, folder)).encode())
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
