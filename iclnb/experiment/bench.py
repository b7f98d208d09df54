"""One way of training after the other, held against in-context learning (ICL) on the same tasks and draws.

What a likeness could be at most is found by putting fine-tuning (FT) itself in ICL's place, with the same formulas.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import pandas as pd
from torch import Tensor

from iclnb.experiment import compare
from iclnb.experiment.controls import matched
from iclnb.experiment.descent import DivergedError, FineTuned
from iclnb.experiment.finetune import train_on
from iclnb.experiment.predict import Internals, NotFiniteError, Predictions, few_shot
from iclnb.experiment.results import Results, identity
from iclnb.experiment.run import best_rate, rate_grid
from iclnb.intervals import flips
from iclnb.model.gpt import GPT
from iclnb.tasks.prompts import build_prompt
from iclnb.tasks.task import Task

Train = Callable[[GPT, str, int], FineTuned]  # a model, a task's name and a draw -> the trained model
REACHED = 20  # examples that tell how far a trained model reaches
RANKED = 20  # examples that Kendall's tau is taken of, the slowest of the measures
IF_FT = "if ICL were FT: "


def moved(zsl: Internals, trained: Internals) -> float:
    """How far training moved the attention output: the length of h_trained - h_ZSL as a share of h_ZSL's, the mean."""
    z, t = zsl.output.double(), trained.output.double()  # (n, L, C) each
    return ((t - z).norm(dim=-1) / z.norm(dim=-1)).mean().item()


def likeness(zsl: Internals, trained: Internals, icl: Internals) -> dict[str, float]:
    """Means over examples and layers of the measures, and how far training `moved` the attention output."""
    values = {
        "SimAOU": compare.sim_aou(zsl, trained, icl),  # (n, L)
        "unnormalised": compare.sim_aou(zsl, trained, icl, "unnormalised"),  # (n, L)
        "projected": compare.sim_aou(zsl, trained, icl, "projected"),  # (n, L)
        "SimAM update": compare.sim_am_update(zsl, trained, icl),  # (n, L)
    }
    return {name: x.mean().item() for name, x in values.items()} | {"moved": moved(zsl, trained)}


class Bench:
    """Runs of several ways of training, each on the same tasks and draws of demonstrations; every number is stored.

    Args:
        model, tokenizer: what is trained; left untouched.
        tasks: by name, those of the runs and any other that a way of training wants.
        names: of the tasks of the runs.
        draws: seeds of the demonstrations; a run is a task and a draw.
        k, n: demonstrations, and evaluation examples.
        rates: learning rates, of which each run takes the best on `n` held-out training examples.
        results: where records are found and stored.

    Attributes:
        tuned: task's name, draw -> fine_tune of the model itself, once.
        asked: task's name, draw -> the recorded runs of the model itself, once: ZSL, FT, ICL.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Any,
        tasks: Mapping[str, Task],
        names: Sequence[str],
        draws: Sequence[int],
        k: int,
        n: int,
        rates: Sequence[float],
        results: Results,
    ):
        self.model, self.tokenizer, self.tasks, self.results = model, tokenizer, tasks, results
        self.k, self.n, self.rates = k, n, rates
        self.runs = [(name, draw) for name in names for draw in draws]
        self.tuned, self.asked = cache(self._tuned), cache(self._asked)  # once a run

    def stored(self, what: str, name: str, draw: int, make: Callable[[], dict]) -> dict:
        """A record found by everything that it depends on, or else made; empty where training diverged."""

        def attempt() -> dict:
            try:
                return make()
            except (DivergedError, NotFiniteError):
                return {}  # its numbers are missing, and a judgment on it is "undefined"

        setting = {"k": self.k, "n": self.n, "rates": list(self.rates), "form": 1}
        return self.results.get(self._identities | setting | {"what": what, "task": name, "draw": draw}, attempt)

    def lr(self, name: str, draw: int) -> float:
        """The learning rate of a run."""

        def make() -> dict:
            data = (self.model, self.tokenizer, self.tasks[name])
            return {"grid": rate_grid(*data, self.k, draw, self.rates, limit=self.n)}

        return best_rate(self.stored("rates", name, draw, make)["grid"])

    def sequences(self, name: str, draw: int, task: Task | None = None) -> list[list[int]]:
        """What a run is trained on, `<s> template answer` of each demonstration; of another task where one is given."""
        return build_prompt(self.model.config, self.tokenizer, task or self.tasks[name], self.k, draw).sequences

    def fine_tune(self, first: GPT, name: str, draw: int) -> FineTuned:
        """The paper's fine-tuning, at the run's rate."""
        return train_on(first, self.sequences(name, draw), self.lr(name, draw), record=True)

    def _tuned(self, name: str, draw: int) -> FineTuned:
        """fine_tune of the model itself."""
        return self.fine_tune(self.model, name, draw)

    def _asked(self, name: str, draw: int) -> tuple[Predictions, Predictions, Predictions]:
        """The recorded runs of the model itself: ZSL, FT, ICL."""
        zsl, icl = self.answer(self.model, name), self.answer(self.model, name, self.k, draw)
        return zsl, self.answer(self.tuned(name, draw).model, name), icl

    def answer(
        self,
        model: GPT,
        name: str,
        k: int = 0,
        draw: int = 1,
        task: Task | None = None,
        limit: int | None = None,
    ) -> Predictions:
        """A recorded run of any model on n (or `limit`) evaluation examples, zero-shot or with k demonstrations."""
        options = {"limit": limit or self.n, "record": True}
        return few_shot(model, self.tokenizer, task or self.tasks[name], k, draw, **options)

    def move_as_far(self, first: GPT, student: GPT, name: str, draw: int) -> FineTuned:
        """A trained model brought to where it moves the attention output as far as fine-tuning does, as `matched` does.

        How far that is, is asked of REACHED evaluation examples.
        """
        few = range(min(REACHED, self.n))
        zsl, ft, _ = (run.internals[few] for run in self.asked(name, draw))

        def reach(candidate: GPT) -> float:
            return moved(zsl, self.answer(candidate, name, limit=len(few)).internals)

        return FineTuned(matched(first, student, reach, moved(zsl, ft)), [])

    def trial(self, what: str, train: Train, start: Callable[[int], GPT] | None = None) -> pd.DataFrame:
        """Train in one way in every run, and hold the trained model against ICL.

        Args:
            what: name of the way, which its records are found by.
            train: the way.
            start: draw -> the model that is trained and that learns in context; None is the bench's own.

        Returns:
            A row a run, indexed by task and draw: accuracies in %, McNemar's word on FT, the measures of `likeness`,
            each also with FT in ICL's place (not with `start`), and "Kendall" where training recorded its queries.
        """
        rows = []
        for name, draw in self.runs:
            rows.append(self.stored(what, name, draw, lambda name=name, draw=draw: self._try(train, start, name, draw)))
        return pd.DataFrame(rows, pd.MultiIndex.from_tuples(self.runs, names=["task", "draw"]))

    def _try(self, train: Train, start: Callable[[int], GPT] | None, name: str, draw: int) -> dict[str, Any]:
        if start is None:
            first, (zsl, ft, icl) = self.model, self.asked(name, draw)
        else:
            first, ft = start(draw), None
            zsl, icl = self.answer(first, name), self.answer(first, name, self.k, draw)
        trained = train(first, name, draw)
        after = self.answer(trained.model, name)
        found = {way: 100 * run.accuracy for way, run in (("ZSL", zsl), ("FT", after), ("ICL", icl))}
        found["learnt"] = flips(zsl.correct, after.correct).word()
        found |= likeness(zsl.internals, after.internals, icl.internals)
        if ft is not None:
            ceiling = likeness(zsl.internals, after.internals, ft.internals)
            found |= {IF_FT + measure: value for measure, value in ceiling.items() if measure != "moved"}
        if trained.queries:
            found["Kendall"] = self._kendall(icl, after, trained.queries)
        return found

    @staticmethod
    def _kendall(icl: Predictions, after: Predictions, queries: Sequence[Tensor]) -> float:
        few = range(min(RANKED, len(icl.labels)))
        return compare.kendall(icl.internals[few], after.internals[few], icl.prompt.spans, queries).mean().item()

    @cached_property
    def _identities(self) -> dict[str, Any]:
        return {"tasks": {name: identity(self.model, task, self.tokenizer) for name, task in self.tasks.items()}}
