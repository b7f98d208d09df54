"""Draw the README's picture with pocket-gpt: what it learns from its prompt, and what wrong labels cost (1 minute).

    python docs/pictures/first_screen.py

Left, notebook 00's experiment: two words without a meaning, 16 draws of demonstrations, 60 queries. Right, that of 06:
three tasks, three draws of 16 demonstrations, read in the prompt (ICL) or descended on (FT), with labels that are right
or right no more often than a guess.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from torch import Tensor

import iclnb
from iclnb.experiment.bench import Bench
from iclnb.experiment.finetune import train_on
from iclnb.experiment.results import Results
from iclnb.experiment.run import RATES
from iclnb.intervals import nested
from iclnb.tasks.variants import partly_right
from iclnb.teaching import plots

FILE = Path(__file__).with_suffix(".png")
KS, DRAWS, QUERIES = (0, 1, 2, 4, 8, 16), range(16), 60
NAMES, K, N = ("sst2", "mr", "agnews"), 16, 50


def learning(model, tokenizer) -> Tensor:
    """Right or not in percent, (ks, draws, queries), where only the prompt can tell what `blaxo` and `kigo` mean."""
    task = iclnb.load_task("sst2", source="sample")
    task = replace(task, spec=replace(task.spec, answers=("blaxo", "kigo")))
    ask = [[iclnb.few_shot(model, tokenizer, task, k, seed, limit=QUERIES).correct for seed in DRAWS] for k in KS]
    return 100 * torch.stack([torch.stack(row) for row in ask]).double()


def labels(model, tokenizer, results: Results) -> dict[str, Tensor]:
    """Accuracies in percent, (runs, 2), with right and with wrong labels, of each way to use the demonstrations."""
    tasks, found = {name: iclnb.load_task(name, source="sample") for name in NAMES}, {"ICL": [], "FT": []}
    bench = Bench(model, tokenizer, tasks, NAMES, (1, 2, 3), K, N, RATES[1:5], results)
    for name, draw in bench.runs:
        wrong = partly_right(tasks[name], K, draw, right=K // len(tasks[name].answers))
        tuned = [bench.tuned(name, draw), train_on(model, bench.sequences(name, draw, wrong), bench.lr(name, draw))]
        icl = bench.answer(model, name, K, draw), bench.answer(model, name, K, draw, wrong)
        found["ICL"].append([100 * run.accuracy for run in icl])
        found["FT"].append([100 * bench.answer(one.model, name).accuracy for one in tuned])
    return {way: torch.tensor(rows) for way, rows in found.items()}


def draw(right: Tensor, by_label: dict[str, Tensor]) -> plt.Figure:
    plots.use_style()
    fig, (left, middle) = plt.subplots(1, 2, figsize=(8.6, 3.1), dpi=160, width_ratios=[5, 4], sharey=True)
    left.plot(right.mean(2), "o-", color="0.84", markersize=3, linewidth=0.7, label=["single draws", *["_"] * 15])
    every, x = [nested(r) for r in right], range(len(KS))
    left.plot(x, [e.mean for e in every], "o-", color=plots.COLOURS["ICL"], label="mean")
    left.axhline(50, color="0.5", linestyle=":", label="a guess")
    left.set(xlabel="demonstrations in the prompt", ylabel="right answers, %", ylim=(30, 103))
    left.set_xticks(x, KS)
    left.set_title("Two new words get a meaning, no weight changes")
    left.legend(loc="lower center", ncols=3, columnspacing=1)
    for shift, (way, label) in zip((-0.04, 0.04), (("ICL", "read in the prompt"), ("FT", "descended on")), strict=True):
        places, colour = torch.arange(2) + shift, plots.COLOURS[way]
        middle.plot(places, by_label[way].T, "-", color=colour, alpha=0.25, linewidth=0.8)
        middle.plot(places, by_label[way].mean(0), "o-", color=colour, linewidth=2.4, markersize=7, label=label)
    middle.set(xlim=(-0.3, 1.3), xticks=[0, 1], xticklabels=["labels right", "labels wrong"])
    middle.set_title("The same demonstrations, used in two ways")
    middle.legend(loc="lower left")
    return fig


if __name__ == "__main__":
    model, tokenizer = iclnb.load("pocket-gpt")
    with tempfile.TemporaryDirectory() as folder:
        right, by_label = learning(model, tokenizer), labels(model, tokenizer, Results(folder))
    FILE.write_bytes(plots.to_png(draw(right, by_label)))
    print("means by number of demonstrations:", dict(zip(KS, right.mean((1, 2)).round().int().tolist(), strict=True)))
    print("right and wrong labels:", {way: rows.mean(0).round().int().tolist() for way, rows in by_label.items()})
