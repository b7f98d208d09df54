"""How long does the paper's whole table take on one GPU? Both model sizes, all six tasks at full evaluation size.

Random weights of the 1.3B and 2.7B shapes are made on the GPU itself. Speed and memory do not depend on the weights, so
the times are those of the real checkpoints after loading; the accuracies mean nothing and are not shown. Per task:
fine-tuning on the demonstrations (FT), predictions of the zero-shot, the fine-tuned and the few-shot model (ZSL, FT,
ICL), with everything recorded that the measures need, and the measures themselves. The learning rate is given.

Shares are of the rate that this GPU reached on one large matrix product in the same run. They count the operations that
the unpadded tokens need; recording, padding and recomputation count as lost.

    python benchmarks/gpu_table.py --data path/to/data
"""

import argparse
from collections.abc import Iterator

import torch
from common import SHAPES, Clock, budget, config_of, folder_for, parse, record, seconds, table, task_of, tokenizer_for

from iclnb.experiment.batching import common_opening
from iclnb.experiment.finetune import train_on
from iclnb.experiment.predict import stream
from iclnb.experiment.run import measure_streams, references_of
from iclnb.model.gpt import GPT, GPTConfig
from iclnb.tasks.prompts import encode_task
from iclnb.tasks.task import TASKS

SEED, RATE = 1, 1e-3
WHOLE, SHARE = 45, 0.55  # the budgets: seconds of everything, and ICL's share of the matrix rate
PARTS = {"FT": "fine-tuning", "zsl": "ZSL", "ft": "FT predictions", "icl": "ICL", "measures": "measures"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="1.3B,2.7B", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch-size", type=int, help="queries a forward pass (default: what memory allows)")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--limit", type=int, help="evaluation examples a task (default: all)")
    parser.add_argument("--k", type=int, default=32, help="demonstrations")
    options = parse(parser)
    if options.quick:
        options.shapes, options.device, options.tasks, options.limit, options.k = "tiny", "cpu", "sst2,cb", 16, 4
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, but torch sees no GPU; --quick tries the script on a CPU")
    dtype = getattr(torch, options.dtype)
    tasks = [task_of(name, options) for name in options.tasks.split(",")]
    tokenizer = tokenizer_for(tasks, folder_for("tokenizer", tasks))
    rate = matrix_rate(options.device, dtype, 512 if options.quick else 8192)
    print(f"one large matrix product: {rate / 1e12:.3g} TFLOP/s\n")
    rows, totals, memory = [], {}, {}
    for shape in options.shapes.split(","):
        model = random_model(config_of(shape), options.device, dtype)
        one_task(model, tokenizer, tasks[0], options.k, options.batch_size, limit=64)  # warms up
        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found = [one_task(model, tokenizer, task, options.k, options.batch_size, options.limit) for task in tasks]
        rows += [line(shape, task.name, one, rate) for task, one in zip(tasks, found, strict=True)]
        totals[shape] = {PARTS[part]: sum(one["seconds"][part] for one in found) for part in PARTS}
        memory[shape] = torch.cuda.max_memory_allocated() / 1e9 if options.device == "cuda" else None
        del model
    print(table(rows) + "\n")
    print(
        table([{"shape": shape} | times | {"peak memory, GB": memory[shape]} for shape, times in totals.items()]) + "\n"
    )
    measured = {f"table of {shape}, {part}, s": t for shape, times in totals.items() for part, t in times.items()}
    whole = f"the whole table, {' and '.join(totals)}, measures included"
    measured[f"{whole}, s"] = sum(measured.values())
    judged = []
    if not options.quick:
        judged.append(budget(f"seconds of {whole}", measured[f"{whole}, s"], WHOLE, at_least=False))
        for row in rows:
            judged.append(
                budget(f"{row['shape']}, {row['task']}: ICL's share of the matrix rate", row["ICL share"], SHARE)
            )
    found = {
        "matrix_rate_tflops": rate / 1e12,
        "rows": rows,
        "seconds": totals,
        "peak_memory_gb": memory,
        "measured": measured,
        "budgets": judged,
    }
    record("gpu_table", options, found)


def random_model(config: GPTConfig, device: str, dtype: torch.dtype) -> GPT:
    """A model with random weights, made on the device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return GPT(config).initialise(seed=0).eval()
    finally:
        torch.set_default_dtype(before)


def matrix_rate(device: str, dtype: torch.dtype, n: int, runs: int = 10) -> float:
    """Operations a second of an (n, n) by (n, n) product, the best of some runs."""
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / min(seconds(lambda: torch.mm(a, b, out=out)) for _ in range(runs))


class Timed:
    """An iterator that adds up the seconds in which it is asked for its next element."""

    def __init__(self, of: Iterator):
        self.of, self.seconds = of, 0.0

    def __iter__(self) -> "Timed":
        return self

    def __next__(self):
        with Clock() as clock:
            item = next(self.of, None)
        self.seconds += clock.seconds
        if item is None:
            raise StopIteration
        return item


def one_task(model: GPT, tokenizer, task, k: int, batch_size: int | None, limit: int | None) -> dict:
    """Seconds and operations of each part for one task."""
    with Clock() as tuning:
        icl = encode_task(model.config, tokenizer, task, k, SEED, limit)
        tuned = train_on(model, icl.prompt.sequences, RATE, record=True)
    zsl, how = icl.zero_shot, {"record": True, "batch_size": batch_size}
    runs = {
        "zsl": Timed(stream(model, zsl, **how)),
        "ft": Timed(stream(tuned.model, zsl, **how)),
        "icl": Timed(stream(model, icl, **how)),
    }
    with Clock() as whole:
        references = references_of(tuned.model, icl, batch_size=batch_size)
        measure_streams(runs["zsl"], runs["ft"], runs["icl"], icl, tuned.queries, references)
    times = {name: run.seconds for name, run in runs.items()}
    opening = len(common_opening(icl.queries))  # encoded once, with the prefix
    lengths = [len(query) - opening for query in icl.queries]
    P = {name: len(encoded.prompt.prefix) + opening for name, encoded in (("zsl", zsl), ("icl", icl))}
    trained = [len(rows) + 1 for rows in tuned.queries]
    return {
        "k": icl.prompt.k,
        "prefix": len(icl.prompt.prefix),
        "tokens": P["icl"] + sum(lengths),
        "n": len(lengths),
        "seconds": times | {"FT": tuning.seconds, "measures": whole.seconds - sum(times.values())},
        "operations": {
            **{name: needed(model.config, [p], 0) + needed(model.config, lengths, p) for name, p in P.items()},
            "FT": training_operations(model.config, trained),
        },
    }


def needed(config: GPTConfig, lengths: list[int], P: int) -> int:
    """Operations of sequences of some lengths after a prefix of P tokens: projections, attention, the last logits."""
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    return sum(L * (24 * C * C * T + 4 * C * T * P + 2 * C * T * T) + 2 * C * V for T in lengths)


def training_operations(config: GPTConfig, lengths: list[int]) -> int:
    """Operations of fine-tuning: forward, gradients of all activations, gradients of the key and value weights."""
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    return sum(2 * L * (24 * C * C * T + 2 * C * T * T) + 4 * C * V * T + 4 * L * C * C * T for T in lengths)


def line(shape: str, task: str, one: dict, rate: float) -> dict:
    """One row of the table."""
    times = one["seconds"]
    share = {part: done / times[part] / rate for part, done in one["operations"].items()}
    return {
        "shape": shape,
        "task": task,
        "n": one["n"],
        "k": one["k"],
        "prefix tokens": one["prefix"],
        **{f"{name}, s": times[part] for part, name in PARTS.items()},
        "ICL tokens/s": one["tokens"] / times["icl"],
        "FT share": share["FT"],
        "ZSL share": share["zsl"],
        "ICL share": share["icl"],
    }


if __name__ == "__main__":
    main()
