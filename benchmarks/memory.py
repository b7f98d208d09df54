"""How much memory does few-shot evaluation take, as queries and demonstrations grow?

Each line is a process of its own: it loads a random checkpoint of the 125M shape, warms up, and reports by how much its
peak rises above that. On a CPU this is the resident set (VmHWM, reset before the run), on a GPU what PyTorch allocates.
"Prefix" is what keys and values of the demonstrations take by their shape: one copy, whatever the number of queries.

    python benchmarks/memory.py --threads 2 --data path/to/data
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from common import checkpoint, parse, record, table, task_of

from iclnb import few_shot, load
from iclnb.experiment.run import run_task
from iclnb.tasks.prompts import encode_task

SEED, BATCH, MB = 1, 16, 1e6
WAYS = {
    "few_shot": "predictions",
    "run_task": "predictions of all three kinds, fine-tuning and the measures",
    "repeated cache": "transformers with the prefix repeated for each query of a batch",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measure", nargs=3, metavar=("WAY", "QUERIES", "K"), help="measure one line, in this process")
    options = parse(parser)
    if options.measure:
        way, queries, k = options.measure
        return print(json.dumps(measure(way, int(queries), int(k), options)))
    if options.quick:
        lines = [("few_shot", 8, 4), ("repeated cache", BATCH, 4)]
    else:
        lines = [("few_shot", n, 32) for n in (16, 128, 872)] + [("few_shot", 128, k) for k in (0, 8, 96)]
        lines += [("run_task", n, 32) for n in (16, 128)] + [("repeated cache", BATCH, k) for k in (8, 32, 96)]
    rows = [row_of(*line, options) for line in lines]
    print(table(rows))
    record(
        "memory",
        options,
        {"dtype": options.dtype, "device": options.device, "batch": BATCH, "ways": WAYS, "rows": rows},
    )


def row_of(way: str, queries: int, k: int, options: argparse.Namespace) -> dict:
    """One line of the table, measured in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", way, str(queries), str(k)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{way} with {queries} queries and k = {k} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(way: str, queries: int, k: int, options: argparse.Namespace) -> dict:
    """Peak memory of one way, over what the loaded and warmed-up process holds."""
    task = task_of("sst2", options)
    folder = checkpoint("tiny" if options.quick else "125M", task)
    model, tokenizer = load(folder, device=options.device, dtype=options.dtype)
    encoded = encode_task(model.config, tokenizer, task, k, SEED)
    prompt = encoded.prompt
    if way == "few_shot":

        def work(n, shots):
            few_shot(model, tokenizer, task, shots, SEED, limit=n, batch_size=BATCH)

    elif way == "run_task":

        def work(n, shots):
            run_task(model, tokenizer, task, k=max(shots, 2), seed=SEED, lr=1e-3, limit=n, batch_size=BATCH)

    else:
        from peers import encode_prefix, load_xglm, repeated_cache  # transformers' model code, which ours needs none of

        hf = load_xglm(folder, model.embed_tokens.weight.dtype)
        del model

        def work(n, shots):
            prefix = encode_prefix(hf, prompt.prefix if shots == k else prompt.prefix[:16])
            repeated_cache(hf, prefix, encoded.queries[:n], [a[0] for a in encoded.answers], BATCH)

    work(2, min(k, 1))
    before = restart_peak(options.device)
    work(queries, k)
    config = prompt_config(folder)
    size = torch.empty(0, dtype=getattr(torch, options.dtype)).element_size()
    return {
        "way": way,
        "queries": queries,
        "k": prompt.k,
        "prefix tokens": len(prompt.prefix),
        "prefix, MB": 2 * config["num_layers"] * config["d_model"] * len(prompt.prefix) * size / MB,
        "peak over loaded, MB": (peak(options.device) - before) / MB,
    }


def prompt_config(folder: Path) -> dict:
    """The checkpoint's config.json."""
    return json.loads((folder / "config.json").read_text())


def status(field: str) -> int:
    """Bytes that Linux reports for this process under a name such as VmRSS."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def restart_peak(device: str) -> int:
    """Forget the peak so far; returns the bytes held now."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("the peak of a CPU run is read from Linux's /proc, which this system does not have")
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    return status("VmRSS")


def peak(device: str) -> int:
    """Bytes of the peak since restart_peak."""
    return torch.cuda.max_memory_allocated() if device != "cpu" else status("VmHWM")


if __name__ == "__main__":
    main()
