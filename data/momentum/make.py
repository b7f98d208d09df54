"""Makes language.json and harder.json: plain attention against momentum attention, trained alike at one rate.

    python data/momentum/make.py language
    python data/momentum/make.py harder --models build/momentum

One record a model. All arms of a seed begin with the same weights and see the same batches in the same order.
`language` trains on the synthetic language; `harder` goes on with its models, on translation and question answering.
A record that is there is kept, and a training that was stopped goes on.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from iclnb.experiment.predict import few_shot
from iclnb.experiment.results import fingerprint, rounded, write_records
from iclnb.language.curriculum import CURRICULUM, Corpus, Phase, size
from iclnb.language.questions import answering, translation, translation_1, translation_2, what, where, who
from iclnb.language.tokenizer import build_tokenizer
from iclnb.model.checkpoints import load
from iclnb.model.gpt import GPT
from iclnb.model.heads import learned_momentum, spread
from iclnb.tasks.task import TASKS, load_task
from iclnb.tasks.variants import with_arbitrary_answers
from iclnb.training import pretrain
from iclnb.training.loop import Data, Schedule, train
from iclnb.training.measure import Accuracy
from iclnb.training.perplexity import loss_by_position, perplexity
from iclnb.training.pretrain import make_config

LEARNED = {"momentum": 0.5, "learn_momentum": True}
ARMS: dict[str, dict[str, Any]] = {  # what is put into GPTConfig
    "plain": {},
    "learned": LEARNED,
    **{f"eta-{eta}": {"momentum": eta} for eta in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)},
}
GIVEN, GIVEN_MOMENTUM = "given", 0.1  # the plain models, to which a learned momentum is given before they go on
MAIN = {"language": ("plain", "learned"), "harder": ("plain", "learned", GIVEN)}
CHOICES = {"language": tuple(ARMS), "harder": (*ARMS, GIVEN)}


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, list]:
    """Rows as named columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def fit(model: GPT, data: Data, folder: Path, progress: bool, **known: Any) -> list[dict[str, float]]:
    """Train a model in place, going on from what the folder holds; `known` is what else tells trainings apart."""
    folder.mkdir(parents=True, exist_ok=True)
    return train(
        model,
        data,
        Schedule(data.steps),
        folder=folder,
        resume=True,
        identity={"model": asdict(model.config), "data": data.identity} | known,
        measure=data.measure,
        measure_every=data.every,
        progress=progress,
    )


# ------------------------------------------------------------------------------------------------------------ language

PHASES = CURRICULUM[:7]  # pocket-gpt's, up to labelled phrases: two fifths of its steps, a quarter of its tokens
CONTEXTS = (32, 64, 128, 256)  # tokens; the last is beyond the training's
QUERIES, K = 200, 16
HELD_OUT_ROWS = 200


class Language(pretrain.Language):
    """The synthetic language, and documents that no training sees."""

    every = 200

    def __init__(self, seed: int):
        super().__init__(seed, PHASES)
        self.tasks = [load_task(name, "sample") for name in TASKS]

    def unseen(self, context: int) -> Tensor:
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


def study(data: Language, arm: str, seed: int, folder: Path, progress: bool = True) -> dict[str, Any]:
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
    model = GPT(make_config(data.tokenizer, **ARMS[arm])).initialise(seed)
    rows = fit(model, data, folder, progress, arm=arm, seed=seed)
    found = {T: perplexity(model, data.unseen(T), T) for T in CONTEXTS}
    return {
        "training": columns(rows),
        "perplexity": {str(T): {"value": p.value, "low": p.low, "high": p.high} for T, p in found.items()},
        "by_position": loss_by_position(model, data.unseen(max(CONTEXTS)), max(CONTEXTS)).to_dict("list"),
        "accuracy": data.accuracy(model),
        "eta": learned_momentum(model),
    }


# -------------------------------------------------------------------------------------------------------------- harder

HARDER = (
    Phase(50, 6, 96, {translation_1: 0.2, translation_2: 0.2, who: 0.2, what: 0.2, where: 0.2}),
    Phase(250, 6, 96, {translation_2: 0.1, translation: 0.35, answering: 0.55}),
)


class Harder(Corpus):
    """Translation and question answering."""

    every = 25

    def __init__(self, seed: int):
        super().__init__(build_tokenizer(), size(HARDER)[0], seed, HARDER)
        self.measure = Accuracy(self.tokenizer)


def first_model(arm: str, seed: int, models: Path) -> GPT:
    """A model of `language`, taken from `models`/`arm`-`seed` or trained into it; GIVEN is the plain one."""
    if arm == GIVEN:
        return first_model("plain", seed, models).with_momentum(GIVEN_MOMENTUM, learn=True)
    folder = models / f"{arm}-{seed}"
    if not (folder / "config.json").exists():  # what a save writes last
        pretrain.pretrain(folder, pretrain.Language(seed, PHASES), seed, resume=True, **ARMS[arm])
    return load(folder, device="cpu", dtype="float32")[0]


def go_on(model: GPT, arm: str, seed: int, folder: Path, progress: bool = True) -> dict[str, Any]:
    """Train a model further on both tasks, in place.

    Args:
        model: from first_model.
        arm: what it is.
        seed: of the documents.
        folder: where the checkpoint of the running training lies, to continue it after a kill.
        progress: show a progress bar.

    Returns:
        "training": named columns, one entry a measurement, the first before any step; "counts": right and all at the
        end; "spread": entropy and distance of each head before the training, on labelled lists; "eta": the learned
        momenta before and after.
    """
    data = Harder(seed)
    lists = Corpus(data.tokenizer, 1, seed=-1).rows(0, Phase(1, 16, 128, PHASES[-1].mixture))[0]  # (B, T)
    looks, eta, weights = spread(model, lists), learned_momentum(model), fingerprint(model)
    start = {"step": 0, "tokens": 0, "loss": None} | data.measure(model)
    model.requires_grad_(True)
    rows = fit(model, data, folder, progress, arm=arm, seed=seed, weights=weights)
    return {
        "training": columns([start, *rows]),
        "counts": data.measure.counts(model),
        "spread": {name: x.tolist() for name, x in looks.items()},
        "eta": {"before": eta, "after": learned_momentum(model)},
    }


# --------------------------------------------------------------------------------------------------------- the command


def make(out: Path, kind: str, todo: Sequence[tuple[str, int]], one: Callable[[str, int, Path], dict]) -> None:
    """Add the record of each (arm, seed) that is not there yet, as `one` makes it in a folder for its checkpoint."""
    file = out / f"{kind}.json"
    for arm, seed in tqdm(todo, unit="model"):
        found = json.loads(file.read_text()) if file.exists() else {}
        folder = out / f"{kind}_{arm}_{seed}.training"
        if f"{arm} {seed}" not in found:
            found[f"{arm} {seed}"] = rounded(one(arm, seed, folder))
            write_records(file, found)
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=MAIN, help="which records")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="their folder (default: beside this)")
    parser.add_argument(
        "--models",
        type=Path,
        default="build/momentum",
        help="harder: folder of the models of `language`, trained if missing (default: build/momentum)",
    )
    parser.add_argument("--arms", help="which, with commas (default: those of the stored records)")
    parser.add_argument("--seeds", type=int, default=3, help="of each arm (default: 3)")
    options = parser.parse_args(arguments)
    kind, arms = options.kind, MAIN[options.kind]
    if options.arms is not None:
        arms = options.arms.split(",")
        if unknown := set(arms) - set(CHOICES[kind]):
            known = ", ".join(CHOICES[kind])
            parser.error(f"argument --arms: unknown is {', '.join(sorted(unknown))}; known are {known}")
    todo = [(arm, seed) for seed in range(options.seeds) for arm in arms]
    torch.set_num_threads(1)  # the models are too small for more; another number rounds otherwise
    ones = {
        "language": lambda arm, seed, folder: study(Language(seed), arm, seed, folder),
        "harder": lambda arm, seed, folder: go_on(first_model(arm, seed, options.models), arm, seed, folder),
    }
    make(options.out, kind, todo, ones[kind])


if __name__ == "__main__":
    main()
