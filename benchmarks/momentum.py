"""What does momentum attention cost over plain attention, and its exponential sum by itself?

Overhead: forward and backward of momentum attention over those of torch's scaled_dot_product_attention, which it is
built on, in the layout that a model has in memory, with one momentum a head, fixed or learned. The two take turns, and
each round gives one ratio. Forms: the sum alone in the package's forms; a plain scan is the loop over positions. The
yardstick is a copy of the values, which moves as much memory as one pass must. Memory: each line is a process of its
own, and says by how much its peak rises above what the inputs take. Training: a whole step of a model of pocket-gpt's
shape, as the recipe in data/momentum takes it.

    python benchmarks/momentum.py --threads 2
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import budget, parse, record, seconds, table
from memory import MB, peak, restart_peak
from torch import Tensor

from iclnb.attention.ema import chunked, exponential_sum, loop, takes_kernel, toeplitz
from iclnb.attention.precision import widen
from iclnb.model.gpt import GPT, GPTConfig
from iclnb.training.loop import Objective, Schedule, make_optimizers, token_loss, training_step
from iclnb.training.pretrain import POCKET

LENGTHS = {"cpu": (512, 1024, 2048, 4096), "cuda": (1024, 2048, 4096, 8192, 16384)}
OVERHEAD = {"cpu": {1024: 1.1}, "cuda": {2048: 1.2, 4096: 1.1}}  # the budget, by the length from which it holds
SHARE = 0.7  # of a copy's bandwidth, for the kernel
LINEAR = 2.2  # what twice the length may do to the peak
WAYS = ("plain", "fixed", "learned")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", help="default: float32 on a CPU, bfloat16 on a GPU")
    parser.add_argument("--seconds", type=float, default=60, help="time for each length, at least three rounds")
    parser.add_argument(
        "--measure", nargs=2, metavar=("WAY", "T"), help="measure the peak of one line, in this process"
    )
    options = parse(parser, sentences=False)
    options.dtype = getattr(torch, options.dtype or ("float32" if options.device == "cpu" else "bfloat16"))
    kind = torch.device(options.device).type
    options.B, options.H, options.D, lengths = (2, 2, 16, (64, 128)) if options.quick else (4, 16, 64, LENGTHS[kind])
    if options.quick:
        options.seconds = 0
    if options.measure:
        return print(json.dumps(measure(options.measure[0], int(options.measure[1]), options)))
    rows = [overhead(T, options) for T in lengths]
    print(table(rows) + "\n")
    forms = [row for T in (lengths[1], lengths[-2]) for row in forms_of(T, options)]
    print(table(forms) + "\n")
    peaks = [peak_of(way, T, options) for way in WAYS for T in lengths[-1 if options.quick else -3 :]]
    print(table(peaks) + "\n")
    steps = [training(options)]
    print(table(steps) + "\n")
    about = {"device": options.device, "dtype": str(options.dtype), "B": options.B, "H": options.H, "D": options.D}
    measured = {f"momentum over plain attention, forward and backward, T = {r['T']}": r["fixed / plain"] for r in rows}
    if kernel := [row for row in forms if row["form"] == "kernel"]:
        slowest = max(row[f"{part} / copy"] for row in kernel for part in ("forward", "backward"))
        measured["momentum kernel's share of a copy's bandwidth, the least"] = 1 / slowest
    found = {"overhead": rows, "forms": forms, "memory": peaks, "training": steps, "measured": measured}
    record("momentum", options, about | found | {"budgets": [] if options.quick else judge(rows, forms, peaks, kind)})


def judge(rows: list[dict], forms: list[dict], peaks: list[dict], device: str) -> list[dict]:
    """The three tables against their budgets."""
    found = []
    for row in (row for row in rows if row["T"] >= min(OVERHEAD[device])):
        what = f"T = {row['T']}: momentum attention over plain attention, forward and backward"
        most = next(most for start, most in reversed(OVERHEAD[device].items()) if start <= row["T"])
        found.append(budget(what, row["fixed / plain"], most, at_least=False))
    for row in (row for row in forms if row["form"] == "kernel" and row["T"] >= min(OVERHEAD[device])):
        for part in ("forward", "backward"):
            what = f"T = {row['T']}: the kernel's share of a copy's bandwidth, {part}"
            found.append(budget(what, 1 / row[f"{part} / copy"], SHARE))
    for before, row in itertools.pairwise(peaks):
        if row["way"] == before["way"] != "plain":
            what = f"{row['way']}: peak at T = {row['T']} over that at {before['T']}"
            found.append(budget(what, row["peak, MB"] / before["peak, MB"], LINEAR, at_least=False))
    return found


def random(B: int, T: int, seed: int, options: argparse.Namespace) -> Tensor:
    """Random numbers (B, H, T, D) that take a gradient; in memory positions come before heads, as in a model."""
    generator = torch.Generator(options.device).manual_seed(seed)
    x = torch.randn(B, T, options.H, options.D, generator=generator, device=options.device)
    return x.to(options.dtype).transpose(1, 2).requires_grad_()


def step(way: str, B: int, T: int, options: argparse.Namespace) -> Callable[[], object]:
    """Forward and backward of one attention, to be called."""
    q, k, v, g = (random(B, T, seed, options) for seed in range(4))  # (B, H, T, D)
    eta = torch.linspace(0.1, 0.9, options.H, dtype=torch.float64, device=options.device)  # (H,)
    inputs = (q, k, v, eta.requires_grad_()) if way == "learned" else (q, k, v)

    def run():
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, D)
        if way != "plain":
            out = exponential_sum(v, eta, onto=out)  # as a layer of the model calls it
        return torch.autograd.grad(out, inputs, g)

    return run


def training(options: argparse.Namespace) -> dict:
    """A training step of the study: milliseconds of the plain model's, and how many times that the others take."""
    ids = torch.randint(
        1000, (2, 32) if options.quick else (8, 256), generator=torch.Generator().manual_seed(0)
    )  # (B, T)
    batch = tuple(x.to(options.device) for x in (ids, ids, torch.ones(ids.shape)))
    works = {}
    for way, momentum in {"plain": None, "fixed": 0.5, "learned": 0.5}.items():
        model = (
            GPT(GPTConfig(1024, **POCKET, momentum=momentum, learn_momentum=way == "learned"))
            .initialise(0)
            .to(options.device)
        )
        optimizers = make_optimizers(model, Schedule(1))
        objective = Objective(model, token_loss)
        works[way] = lambda objective=objective, optimizers=optimizers: training_step(objective, optimizers, batch)
    times = take_turns(works, options)
    row = {"B": len(ids), "T": ids.shape[1], "plain, ms": 1e3 * statistics.median(times["plain"])}
    return row | ratios(times)


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Median over rounds of each way's time over the plain one's."""
    found = {}
    for way in WAYS[1:]:
        each = [a / b for a, b in zip(times[way], times["plain"], strict=True)]
        found[f"{way} / plain"] = statistics.median(each)
    return found


def take_turns(works: dict[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each work in each round, after a first round that warms up."""
    calls = 10 if options.device != "cpu" else 1  # so many follow each other that the GPU's queue stays full
    times, start = {name: [] for name in works}, time.perf_counter()
    while min(map(len, times.values())) < 4 or time.perf_counter() - start < options.seconds:
        for name, work in works.items():
            times[name].append(seconds(lambda work=work: [work() for _ in range(calls)]) / calls)
    return {name: values[1:] for name, values in times.items()}


def overhead(T: int, options: argparse.Namespace) -> dict:
    """One length: seconds of plain attention, and how many times that the two kinds of momentum take."""
    times = take_turns({way: step(way, options.B, T, options) for way in WAYS}, options)
    row = {"T": T, "plain, ms": 1e3 * statistics.median(times["plain"])}
    return row | ratios(times) | {"rounds": len(times["plain"])}


def forms_of(T: int, options: argparse.Namespace) -> list[dict]:
    """One length: the sum alone in each form, for one momentum; on a GPU with more sequences, which fill it."""
    B = options.B * (8 if options.device != "cpu" else 1)
    v, g = random(B, T, 0, options), random(B, T, 1, options)  # (B, H, T, D)
    eta, out = torch.tensor(0.9, dtype=torch.float64, device=options.device), torch.empty_like(v)
    used = "kernel" if takes_kernel(v, False) else "operator"  # what a model calls
    forms = {used: exponential_sum, "chunked": chunked}
    if options.device == "cpu":  # at a GPU's lengths the others take too long
        forms |= {"toeplitz": toeplitz, "loop": loop}
    works = {"copy": lambda: out.detach().copy_(v.detach())}
    for name, form in forms.items():
        wide = v if name == used else widen(v)
        total = form(wide, eta, None).to(v.dtype)  # (B, H, T, D), kept for its gradient
        works[f"{name}, forward"] = lambda form=form, wide=wide: form(wide.detach(), eta, None).to(v.dtype)
        works[f"{name}, backward"] = lambda total=total: torch.autograd.grad(total, v, g, retain_graph=True)
    times = {name: statistics.median(values) for name, values in take_turns(works, options).items()}
    rows = []
    for form in forms:
        row = {"T": T, "form": form}
        for part in ("forward", "backward"):
            row[f"{part}, ms"] = 1e3 * times[f"{form}, {part}"]
        for part in ("forward", "backward"):
            row[f"{part} / copy"] = times[f"{form}, {part}"] / times["copy"]
        rows.append(row)
    return rows


def peak_of(way: str, T: int, options: argparse.Namespace) -> dict:
    """One line of the table of memory, measured in a process of its own; on a GPU in this one, where torch counts."""
    if options.device != "cpu":
        return measure(way, T, options)
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", way, str(T)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{way} at T = {T} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(way: str, T: int, options: argparse.Namespace) -> dict:
    """Peak memory of forward and backward for one sequence, over what its inputs take."""
    step(way, 1, 16, options)()  # warms up
    run = step(way, 1, T, options)
    before = restart_peak(options.device)
    run()
    return {"way": way, "T": T, "peak, MB": (peak(options.device) - before) / MB}


if __name__ == "__main__":
    main()
