"""Makes the records of the fair test: what momentum attention gains and costs, against its rivals, trained alike.

    python data/momentum/study.py --data DIR

DIR holds the six real tasks and text/war_and_peace.txt. Several processes may run it at once, on one --work folder;
one that was stopped goes on where it stopped. Finished models are kept in --work; the records go into --out, one file a
kind, and one that is there is not made again. --kinds and --arms make some alone, --seeds the first seeds alone.
"""

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy, deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from iclnb.experiment.predict import few_shot
from iclnb.experiment.results import rounded, write_records
from iclnb.language.curriculum import CURRICULUM, Corpus
from iclnb.language.documents import recall, repeats
from iclnb.model.gpt import GPT
from iclnb.model.momentum import Momentum
from iclnb.model.reading import ProjectedMomentum, share_kept, subspaces
from iclnb.model.terms import AdaptiveMomentum, GatedMomentum, ValueConvolution, give, openings
from iclnb.paths import write_whole
from iclnb.tasks.task import TASKS, load_task
from iclnb.tasks.variants import with_arbitrary_answers
from iclnb.training import pretrain
from iclnb.training.kinds import SHOWN, Trigrams, shown
from iclnb.training.loop import Schedule, train
from iclnb.training.measure import Probe
from iclnb.training.perplexity import cut, loss_by_position, perplexity, token_losses
from iclnb.training.pretrain import make_config
from iclnb.training.text import TextFile

Make = Callable[[int, int], nn.Module]


def momentum(eta: float | tuple[float, ...], learn: bool = False) -> Make:
    """Momentum for H heads, whatever their width."""
    return lambda H, D: Momentum(eta, learn, H)


ARMS: dict[str, tuple[Make | None, tuple[int, ...] | None]] = {  # what is put in, and into which of four layers
    "plain": (None, None),
    "longer": (None, None),  # with a tenth more steps: momentum takes up to a tenth more time a step at this size
    "eta-0.5": (momentum(0.5), None),
    "learned-0.1": (momentum(0.1, learn=True), None),
    "learned-0.5": (momentum(0.5, learn=True), None),
    "learned-0.9": (momentum(0.9, learn=True), None),
    "first": (momentum(0.5, learn=True), (0,)),
    "last": (momentum(0.5, learn=True), (3,)),
    "half": (momentum((0.5, 0.5, 0.0, 0.0)), None),  # two of the four heads of each layer
    "convolution": (lambda H, D: ValueConvolution(4, H), None),
    "gated": (lambda H, D: GatedMomentum(0.5, H, D), None),
    "adaptive": (lambda H, D: AdaptiveMomentum(0.5, H, D), None),
}
LONGER = 1.1
FEW = ("plain", "learned-0.5", "convolution")  # where a run is long
RATES = (0.00075, 0.0015, 0.003, 0.006, 0.012, 0.024, 0.048, 0.096, 0.192)  # of Muon; AdamW's is half of it
START = {"english": (4, 5, 6), "language": (1, 2, 3)}  # places in RATES that a tuning begins with
TUNING_SEED = 100


@dataclass(frozen=True)
class Kind:
    """What one kind of run trains on: the text or the language, how large a model, for how many steps.

    Args:
        data: "english" or "language".
        arms: of ARMS.
        seeds: how many.
        steps: of the training.
        shape: entries of GPTConfig that differ from pocket-gpt's.
        phases: of the curriculum, for the language.
        rates: the kind whose learning rates are taken; None tunes its own.
        tuned_on: phases that the rate is tuned on, for the language.
    """

    data: str
    arms: tuple[str, ...]
    seeds: int
    steps: int
    shape: tuple[tuple[str, int], ...] = ()
    phases: int = 0
    rates: str | None = None
    tuned_on: int = 0


def steps_of(phases: int) -> int:
    """Steps of the first phases of the curriculum."""
    return sum(phase.steps for phase in CURRICULUM[:phases])


SMALL = (("n_embd", 64),)  # 0.3 million parameters: a run of minutes
KINDS = {
    "english": Kind("english", tuple(ARMS), 5, 400, SMALL),
    "copying": Kind("language", tuple(arm for arm in ARMS if arm != "longer"), 5, steps_of(5), SMALL, 5, tuned_on=5),
    "long": Kind("english", FEW, 3, 1600, SMALL, rates="english"),
    "0.9M": Kind("english", FEW, 3, 400),
    "3M": Kind("english", FEW, 3, 400, (("n_embd", 256),)),
    "tasks": Kind("language", ("plain", "learned-0.5", "gated"), 3, steps_of(11), phases=11, rates="copying"),
}
ORDER = (  # what comes first when time is short: kind, first seed, and the one after the last
    *(("english", 0, 2), ("copying", 0, 1), ("english", 2, 3), ("copying", 1, 2), ("long", 0, 1), ("0.9M", 0, 1)),
    *(("tasks", 0, 1), ("copying", 2, 3), ("english", 3, 5), ("0.9M", 1, 3), ("long", 1, 3), ("3M", 0, 1)),
    *(("tasks", 1, 3), ("3M", 1, 3), ("copying", 3, 5)),
)


# ------------------------------------------------------------------------------------------------------------ the data

PIECE = 4000  # characters of a piece of text
TEXTS = {  # task -> fields; sst2 and sst5 are left out, whose sentences are those of mr
    "mr": ("text",),
    "subj": ("text",),
    "agnews": ("text",),
    "cb": ("premise", "hypothesis"),
}


def mixed_text(data: Path) -> str:
    """A novel and the train splits of four tasks, cut into pieces and shuffled, so that every part has all of them."""
    lines = (data / "text" / "war_and_peace.txt").read_text().splitlines()
    pieces = [list(in_pieces(lines))]
    for task, fields in TEXTS.items():
        rows = map(json.loads, (data / task / "train.jsonl").read_text().splitlines())
        pieces.append(list(in_pieces(" ".join(row[field].strip() for field in fields) for row in rows)))
    together = [piece for some in pieces for piece in some]
    random.Random(0).shuffle(together)
    return "\n".join(together) + "\n"


def in_pieces(lines: Sequence[str] | Iterator[str]) -> Iterator[str]:
    """Lines gathered into pieces of about PIECE characters; a longer line is cut at spaces."""
    held, size = [], 0
    for line in lines:
        for word in line.split(" ") if len(line) > PIECE else [line]:
            held.append(word)
            size += len(word) + 1
            if size >= PIECE:
                yield (" " if len(line) > PIECE else "\n").join(held)
                held, size = [], 0
    if held:
        yield "\n".join(held)


class English(TextFile):
    """The mixed text, and what is measured on its last tenth, which no training sees."""

    every = 50

    def drawn(self, seed: int) -> "English":
        """The same text, from which rows are drawn by another seed."""
        other = copy(self)
        other.seed, other.identity = seed, self.identity | {"seed": seed}
        return other

    def measure(self, model: GPT) -> dict[str, float]:
        """Perplexity of a part of the held-out text."""
        return {"perplexity": perplexity(model, self.held_out[: 64 * self.context + 1], self.context).value}

    def loss(self, model: GPT) -> float:
        """What a rate is chosen by: loss on the first half of what is scored, nats a token."""
        return token_losses(model, self.windows()[:SCORED]).mean().item()

    def windows(self) -> Tensor:
        """Windows for tuning, and behind them as many for scores, (2 * SCORED, T + 1)."""
        return cut(self.held_out, self.context)[: 2 * SCORED]

    def found(self, model: GPT) -> dict[str, Any]:
        """The scores of a finished model: loss, by position, by kind of token, and without its term."""
        windows = self.windows()[SCORED:]  # (n, T + 1)
        losses = token_losses(model, windows).double()  # (n, T)
        record = {"loss": losses.mean().item(), "by_kind": self.by_kind(windows, losses)}
        record["by_position"] = loss_by_position(model, windows[:, :-1].flatten(), self.context - 1).to_dict("list")
        without = ablations(model)
        record["ablated"] = {name: token_losses(m, windows).mean().item() for name, m in without.items()}
        return record

    @cached_property
    def trigrams(self) -> Trigrams:
        """Trigrams of the training part."""
        return Trigrams(self.ids, len(self.tokenizer))

    def by_kind(self, windows: Tensor, losses: Tensor) -> dict[str, tuple[float, int]]:
        """Mean loss and number of the tokens of each kind: what the window has shown, and if trigrams guess it."""
        told, right = shown(windows), self.trigrams.best(windows) == windows[:, 1:]  # (n, T) each
        kinds = {}
        for i, name in enumerate(SHOWN):
            for said, guessed in (("guessed", right), ("not guessed", ~right)):
                chosen = losses[(told == i) & guessed]
                kinds[f"{name}, {said}"] = (chosen.mean().item(), len(chosen))
        return kinds


SCORED = 128  # windows of 256 tokens


class Language(pretrain.Language):
    """The first phases of the curriculum of pocket-gpt, and documents that no training sees."""

    every = 100

    def __init__(self, seed: int, phases: int):
        super().__init__(seed, CURRICULUM[:phases])
        self.probes = {"copying": Probe(self.tokenizer, repeats), "recall": Probe(self.tokenizer, recall)}

    def measure(self, model: GPT) -> dict[str, float]:
        """Shares of copying and recall."""
        model.eval()
        return {name: probe.accuracy(model) for name, probe in self.probes.items()}

    def loss(self, model: GPT) -> float:
        """What a rate is chosen by: mean loss on unseen documents of the last phase, nats a token."""
        return token_losses(model, self.unseen(seed=-2)).mean().item()

    def unseen(self, seed: int) -> Tensor:
        """Documents of the last phase, (n, T + 1)."""
        phase = replace(self.curriculum[-1], sequences=60)
        inputs, targets, _ = Corpus(self.tokenizer, 1, seed=seed).rows(0, phase)  # (n, T) each
        return torch.cat([inputs, targets[:, -1:]], 1)

    def found(self, model: GPT) -> dict[str, Any]:
        """The scores of a finished model: copying and recall, with its term and without, and the six tasks."""
        record = {"loss": token_losses(model, self.unseen(seed=-3)).mean().item(), **self.measure(model)}
        record["ablated"] = {name: self.measure(m) for name, m in ablations(model).items()}
        record["gates"] = [gate.tolist() for gate in openings(model, self.probes["copying"].inputs)]
        if all(block.attn.momentum is None for block in model.blocks):
            made = given(model, self.probes["copying"].inputs)
            record["given"] = {name: self.measure(m) | {"left": share} for name, share, m in made}
        return record


K, QUERIES, DRAWS = 16, 200, (1, 2, 3)


def six_tasks(model: GPT, tokenizer: Any) -> dict[str, dict[str, list[int]]]:
    """Right answers of QUERIES in each draw: with the tasks' own answers, and with arbitrary ones."""
    found = {}
    for name in TASKS:
        task = load_task(name, "sample")
        for said, asked in (("own", task), ("arbitrary", with_arbitrary_answers(task))):
            shots = [few_shot(model, tokenizer, asked, K, seed, limit=QUERIES) for seed in DRAWS]
            found.setdefault(name, {})[said] = [int(shot.correct.sum()) for shot in shots]
        found[name]["zero-shot"] = [int(few_shot(model, tokenizer, task, 0, limit=QUERIES).correct.sum())]
        found[name]["queries"] = min(QUERIES, len(task.evaluation))
    return found


# -------------------------------------------------------------------------------------- changes of a finished model


def ablations(model: GPT) -> dict[str, GPT]:
    """The model without its term, in all layers and in one."""
    layers = [i for i, block in enumerate(model.blocks) if block.attn.momentum is not None]
    chosen = {"all": layers} | {f"layer {i + 1}": [i] for i in layers} if layers else {}
    return {name: without(model, some) for name, some in chosen.items()}


def without(model: GPT, layers: Sequence[int]) -> GPT:
    """A copy of the model that is plain in these layers."""
    other = deepcopy(model)
    for i in layers:
        other.blocks[i].attn.momentum = None
    return other


GIVEN_ETAS, REMOVED_SEED = (0.2, 0.3, 0.4), 0


def given(model: GPT, ids: Tensor) -> Iterator[tuple[str, float, GPT]]:
    """A plain model that momentum is given to, in all layers but the last: whole, or without half of the directions.

    Besides, "as little": all directions, but shrunk to the norm of what is left without those that are read most.

    Args:
        model: left as it was.
        ids: what shares of the norm are measured on, (B, T).

    Yields:
        What is given, the share of the term's square norm that is left (mean of the layers), and the model.
    """
    layers, C = range(len(model.blocks) - 1), model.config.n_embd
    spaces = [subspaces(model, i, C // 2, REMOVED_SEED) for i in layers]
    for eta in GIVEN_ETAS:
        left = {name: [share_kept(model, i, eta, spaces[i][name], ids) for i in layers] for name in spaces[0]}
        left["as little"] = left["without most read"]
        for name, shares in left.items():
            other = deepcopy(model)
            for i, share in zip(layers, shares, strict=True):
                keep = spaces[i][name] if name in spaces[i] else share**0.5 * torch.eye(C)  # (C, C)
                attn = other.blocks[i].attn
                attn.momentum = ProjectedMomentum(eta, model.config.n_head, keep, attn.out_proj.weight.detach())
            yield f"{eta}, {name}", statistics.fmean(shares), other


# ------------------------------------------------------------------------------------------------------------ the runs


class Study:
    """All runs; those that are finished lie in `work`.

    Args:
        data: folder of the tasks and the novel.
        work: folder of the models, the finished runs and the checkpoints.
        out: folder of the records.
    """

    def __init__(self, data: Path | None, work: Path, out: Path):
        self.data, self.work, self.out = data, work, out
        work.mkdir(parents=True, exist_ok=True)

    @property
    def text(self) -> Path:
        """The file of the mixed text, made at first use."""
        file = self.work / "text.txt"
        if not file.exists():
            write_whole(file, mixed_text(self.data).encode())
        return file

    def source(self, kind: Kind, seed: int, phases: int) -> English | Language:
        """What a run trains on."""
        return self.english.drawn(seed) if kind.data == "english" else Language(seed, phases)

    @cached_property
    def english(self) -> English:
        """The mixed text, read once."""
        return English(self.text)

    def fitted(self, name: str, arm: str, seed: int, rate: float, tuning: bool = False) -> tuple[GPT, Any, list, float]:
        """The finished model, what it was trained on, the record of its training and its minutes, made if missing."""
        kind = KINDS[name]
        data = self.source(kind, seed, kind.tuned_on if tuning else kind.phases)
        steps = data.steps if kind.data == "language" else kind.steps
        data.steps = round(steps * LONGER) if arm == "longer" else steps
        model = GPT(make_config(data.tokenizer, **dict(kind.shape))).initialise(seed)
        make, layers = ARMS[arm]
        if make is not None:
            give(model, make, layers)
        run = f"{name}_{arm}_{seed}_{rate:g}" + ("_tuning" if tuning else "")
        file = self.work / f"{run}.pt"
        if file.exists():
            kept = torch.load(file, weights_only=True)
            model.load_state_dict(kept["model"])
            return model.eval(), data, kept["training"], kept["minutes"]
        folder = self.work / f"{run}.training"
        folder.mkdir(exist_ok=True)
        started = time.process_time()
        identity = {"model": asdict(model.config), "data": data.identity, "arm": arm, "seed": seed}
        rows = train(
            model,
            data,
            Schedule(data.steps, matrix_lr=rate, other_lr=rate / 2),
            folder=folder,
            resume=True,
            identity=identity,
            measure=None if tuning else data.measure,
            measure_every=None if tuning else data.every,
            progress=False,
        )
        minutes = (time.process_time() - started) / 60
        torch.save({"model": model.state_dict(), "training": rows, "minutes": minutes}, file.with_suffix(".part"))
        os.replace(file.with_suffix(".part"), file)
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()
        return model, data, rows, minutes

    def tune(self, name: str, arm: str) -> dict[str, Any]:
        """Loss by learning rate, and the best one; the grid grows while the best is at its end."""
        losses, skills, places = {}, {}, list(START[KINDS[name].data])
        if name == "english" and arm in FEW:  # whose curves are shown
            places = list(range(2, places[-1] + 1))
        while True:
            for place in places:
                if (rate := RATES[place]) not in losses:
                    try:
                        model, data, *_ = self.fitted(name, arm, TUNING_SEED, rate, tuning=True)
                        losses[rate] = data.loss(model)
                        if KINDS[name].data == "language":
                            skills[f"{rate:g}"] = data.measure(model)
                    except FloatingPointError:
                        losses[rate] = float("inf")
            best = min(losses, key=losses.get)
            place = RATES.index(best)
            if place == min(places) > 0:
                places.insert(0, place - 1)
            elif place == max(places) < len(RATES) - 1:
                places.append(place + 1)
            else:
                found = {"losses": {f"{rate:g}": losses[rate] for rate in sorted(losses)}, "rate": best}
                return found | ({"skills": skills} if skills else {})

    def rate(self, name: str, arm: str) -> float:
        """The best learning rate of an arm, tuned at first use."""
        other = KINDS[name].rates
        if other is not None:
            return self.rate(other, arm)
        arm = "plain" if arm == "longer" else arm
        return self.unit("rates", f"{name} {arm}", partial(self.tune, name, arm))["rate"]

    def unit(self, name: str, key: str, make: Callable[[], dict[str, Any]], wait: bool = True) -> dict[str, Any] | None:
        """A record, made if it is in no file; without `wait`, None where another process is at it.

        Args:
            name: the kind, or "rates".
            key: of the record in `out`/`name`.json.
            make: makes it.
            wait: for another process.
        """
        file = self.work / f"{name} {key}.json".replace(" ", "_")
        if not file.exists() and key in (known := self.records(name)):
            return known[key]
        if not file.exists():
            try:
                with FileLock(file.with_suffix(".lock"), timeout=-1 if wait else 0):
                    if not file.exists():
                        write_whole(file, json.dumps(rounded(make())).encode())
            except Timeout:
                return None
        return json.loads(file.read_text())

    def run(self, name: str, arm: str, seed: int) -> dict[str, Any]:
        """Train one model and measure it."""
        rate = self.rate(name, arm)
        model, data, rows, minutes = self.fitted(name, arm, seed, rate)
        record = {"rate": rate, "parameters": sum(p.numel() for p in model.parameters()), "minutes": minutes}
        record["training"] = {column: [row[column] for row in rows] for column in rows[0]}
        record |= data.found(model)
        if name == "tasks":
            record["tasks"] = six_tasks(model, data.tokenizer)
        terms = [block.attn.momentum for block in model.blocks]
        record["eta"] = [term.eta().tolist() if isinstance(term, Momentum) else None for term in terms]
        record["kernel"] = [term.kernel.tolist() if isinstance(term, ValueConvolution) else None for term in terms]
        return record

    def records(self, name: str) -> dict[str, dict[str, Any]]:
        """What the file of a kind holds."""
        file = self.out / f"{name}.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def gather(self) -> None:
        """Write what is finished beside what was there before, one file a kind, and one of the learning rates."""
        keys = {
            name: [f"{arm} {seed}" for arm in kind.arms for seed in range(kind.seeds)] for name, kind in KINDS.items()
        }
        keys["rates"] = [f"{name} {arm}" for name, kind in KINDS.items() for arm in kind.arms]
        for name, some in keys.items():
            files = {key: self.work / f"{name} {key}.json".replace(" ", "_") for key in some}
            made = {key: json.loads(file.read_text()) for key, file in files.items() if file.exists()}
            if made:
                write_records(self.out / f"{name}.json", self.records(name) | made)


def units(kinds: Sequence[str], seeds: int) -> Iterator[tuple[str, str, int]]:
    """The runs in their order: kind, arm, seed."""
    for name, first, end in ORDER:
        for seed in range(first, min(end, seeds)) if name in kinds else ():
            for arm in KINDS[name].arms:
                yield name, arm, seed


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ICLNB_DATA") or None, help="default: ICLNB_DATA")
    parser.add_argument("--work", type=Path, default=Path("build/momentum-study"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="default: beside this file")
    parser.add_argument("--kinds", default=",".join(KINDS), help="with commas (default: all)")
    parser.add_argument("--seeds", type=int, default=5, help="the first so many (default: 5)")
    parser.add_argument("--arms", default=",".join(ARMS), help="with commas (default: all)")
    options = parser.parse_args(arguments)
    kinds, arms = options.kinds.split(","), options.arms.split(",")
    for name, chosen, known in (("kinds", kinds, KINDS), ("arms", arms, ARMS)):
        if unknown := set(chosen) - set(known):
            parser.error(f"argument --{name}: unknown is {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    if options.data is None and any(KINDS[name].data == "english" for name in kinds):
        parser.error("argument --data: the folder of the six tasks and the novel is needed")
    torch.set_num_threads(1)  # the models are too small for more; another number rounds otherwise
    study = Study(options.data, options.work, options.out)
    todo = [unit for unit in units(kinds, options.seeds) if unit[1] in arms]
    for wait in (False, True):  # first what no other process is at, then wait for what is left
        for name, arm, seed in todo:
            started = time.perf_counter()
            if study.unit(name, f"{arm} {seed}", partial(study.run, name, arm, seed), wait) is not None:
                print(f"{name} {arm} {seed}: {time.perf_counter() - started:.0f} s", flush=True)
                study.gather()


if __name__ == "__main__":
    main()
