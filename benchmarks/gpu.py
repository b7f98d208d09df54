"""What a GPU has to show beside gpu_table.py and momentum.py: prediction and its peers, fine-tuning, pretraining.

    python benchmarks/gpu.py prediction --data path/to/data     # or finetuning, pretraining
    python benchmarks/gpu.py join FOLDER                        # adds a run of gpu.sh to results/gpu.json

gpu.sh runs all of it, part by part. Random weights of the paper's shapes are made on the GPU. What is measured has a
name in results/gpu.json, where a floor, or what is wanted, stands beside it. Shares are of the rate that this GPU
reached on one large matrix product in the same run, and count the operations that the unpadded tokens need.
"""

import argparse
import functools
import gc
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import HERE, SHAPES, config_of, folder_for, parse, record, seconds, table, task_of, tokenizer_for
from gpu_table import SEED, matrix_rate, needed, random_model, training_operations
from peers import encode_prefix, full_prompts, random_xglm, repeated_cache
from torch.profiler import ProfilerActivity, profile

from iclnb.experiment.batching import common_opening
from iclnb.experiment.finetune import train_on
from iclnb.experiment.predict import stream
from iclnb.model.gpt import GPT, GPTConfig
from iclnb.paths import write_whole
from iclnb.tasks import prompts
from iclnb.training import pretrain
from iclnb.training.loop import Objective, Schedule, make_optimizers, token_loss, training_step

GB, FREE = 1e9, 15  # of memory, that a free Colab T4 leaves
RESULT = HERE / "results" / "gpu.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "join"])
    parser.add_argument("folder", nargs="?", type=Path, help="for join: what gpu.sh calls OUT")
    parser.add_argument("--into", type=Path, default=RESULT, help="for join: the file that gains a column")
    options = parse(parser, sentences="join" not in sys.argv)
    if options.part == "join":
        return join(options.folder, options.into)
    options.device, options.dtype = ("cpu", torch.float32) if options.quick else ("cuda", torch.bfloat16)
    options.k, options.limit = (4, 16) if options.quick else (32, None)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --quick tries the script on a CPU")
    measured = {}
    for what, number in PARTS[options.part](options):
        measured[what] = number
        print(f"{what}: {number:.4g}" if isinstance(number, float) else f"{what}: {number}", flush=True)
    record(options.part, options, {"measured": measured}, script="gpu")


def prediction(options: argparse.Namespace):
    """The machine's rates; ICL of 1.3B on sst2 from text to log-probabilities, and transformers' ways to the same."""
    rate = matrix_rate(options.device, options.dtype, 256 if options.quick else 8192)
    yield "matrix products, bfloat16, TFLOP/s", rate / 1e12
    yield "copy, TB/s", copy_rate(options) / 1e12
    task, tokenizer, model = task_of("sst2", options), *made("1.3B", "sst2", options)

    def ours(**how: Any) -> None:
        prompts._encode_queries.cache_clear()  # the time starts from text
        encoded = prompts.encode_task(model.config, tokenizer, task, options.k, SEED, options.limit)
        for batch in stream(model, encoded, **how):
            last = batch.log_probs
        last.cpu()  # which waits for all of them

    encoded = prompts.encode_task(model.config, tokenizer, task, options.k, SEED, options.limit)
    opening = len(common_opening(encoded.queries))
    P, lengths = len(encoded.prompt.prefix) + opening, [len(query) - opening for query in encoded.queries]
    operations = needed(model.config, [P], 0) + needed(model.config, lengths, P)
    name = "ICL of 1.3B, sst2"
    plain, recorded = median(ours), median(lambda: ours(record=True))
    yield f"{name}, s", plain
    yield f"{name}, share of the matrix rate", operations / plain / rate
    if options.device == "cuda":
        yield f"{name}, share of the time that the GPU works", busy(ours) / plain
    yield f"{name}, internals recorded, s", recorded
    yield f"{name}, internals recorded, over the plain run", recorded / plain
    hf = random_xglm(*SHAPES["tiny" if options.quick else "1.3B"], options.device, options.dtype)
    queries, answers = encoded.queries, [answer[0] for answer in encoded.answers]

    def cached(batch: int) -> None:
        repeated_cache(hf, encode_prefix(hf, encoded.prompt.prefix), queries, answers, batch)

    best = min(median(functools.partial(cached, batch), 2) for batch in (32, 64, 128, 256))
    yield f"{name}, transformers with its prefix cache repeated, times ours", best / plain
    some = queries[:: max(1, len(queries) // 64)]
    whole = min(
        median(functools.partial(full_prompts, hf, encoded.prompt.prefix, some, answers, batch), 1) for batch in (8, 16)
    )
    yield (
        f"{name}, transformers with the whole prompt, times ours",
        whole * len(queries) / len(some) / plain,
    )


def finetuning(options: argparse.Namespace):
    """A step of 1.3B where lengths are new and where they have been seen; the peak of 2.7B under a T4's limit."""
    rate = matrix_rate(options.device, options.dtype, 256 if options.quick else 8192)
    task, (tokenizer, model) = task_of("sst2", options), made("1.3B", "sst2", options)
    sequences = prompts.build_prompt(model.config, tokenizer, task, options.k, SEED).sequences

    def step(**how: bool) -> float:
        return seconds(lambda: train_on(model, sequences, 1e-3, record=True, **how)) / len(sequences)

    new, seen = step(), step()  # the first records its CUDA graphs
    step(graphs=False)
    yield "fine-tuning step of 1.3B, without CUDA graphs, ms", 1e3 * step(graphs=False)
    operations = training_operations(model.config, [len(ids) for ids in sequences]) / len(sequences)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    yield "fine-tuning step of 1.3B, lengths new, ms", 1e3 * new
    yield "fine-tuning step of 1.3B, lengths seen before, ms", 1e3 * seen
    yield "fine-tuning step of 1.3B, share of the matrix rate", operations / seen / rate
    yield "reading the weights of 1.3B twice, ms", 1e3 * 2 * weights / copy_rate(options)
    del model
    if options.device == "cuda":
        forget()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, FREE * GB / total))
    tokenizer, model = made("2.7B", "agnews", options)
    train_on(
        model,
        prompts.build_prompt(model.config, tokenizer, task_of("agnews", options), options.k, SEED).sequences,
        1e-3,
    )
    yield "fine-tuning of 2.7B, agnews, under a limit of 15 GB, peak, GB", peak_gb()


def pretraining(options: argparse.Namespace):
    """Tokens a second of 350M, plain and with momentum, compiled and not; a step of pocket-gpt."""
    rate = matrix_rate(options.device, options.dtype, 256 if options.quick else 8192)
    shape, V = pretrain.SHAPES["pocket" if options.quick else "350M"], 1024 if options.quick else 50304
    (B, T), rows = ((1, 32), (1, 32)) if options.quick else (pretrain.ROWS["350M"], pretrain.ROWS["pocket"])
    times = {}
    for compiled in (False,) if options.quick else (False, True):
        for momentum in (None, 0.5):
            config = GPTConfig(V, **shape, momentum=momentum)
            name = f"pretraining of 350M{', momentum' if momentum else ''}{', compiled' if compiled else ''}"
            try:
                step = times[compiled, momentum] = median(training(config, B, T, compiled, options))
            except Exception as error:  # what one way cannot do, the others may
                print(f"{name}: {type(error).__name__} {str(error)[:300]}", flush=True)
                continue
            weights = sum(p.numel() for p in GPT(config).to("meta").parameters())
            operations = 6 * weights * B * T + 6 * config.n_layer * config.n_embd * T * T * B
            yield f"{name}, tokens/s", B * T / step
            yield f"{name}, share of the matrix rate", operations / step / rate
            yield f"{name}, peak, GB", peak_gb()
            if (compiled, None) in times and momentum:
                yield f"{name}, time over plain", step / times[compiled, None]
            forget()
    for momentum in (None, 0.5):
        config = GPTConfig(1024, **pretrain.POCKET, momentum=momentum)
        step = median(training(config, *rows, False, options), 1 if options.quick else 20)
        yield f"training step of pocket-gpt{', momentum' if momentum else ''}, ms", 1e3 * step


PARTS = {"prediction": prediction, "finetuning": finetuning, "pretraining": pretraining}


def training(config: GPTConfig, B: int, T: int, compiled: bool, options: argparse.Namespace) -> Callable[[], float]:
    """One training step on drawn tokens, to be called."""
    model = GPT(config).initialise(0).to(options.device)
    ids = torch.randint(1000, (B, T), generator=torch.Generator().manual_seed(0)).to(options.device)  # (B, T)
    batch, optimizers = (ids, ids, torch.ones(B, T, device=options.device)), make_optimizers(model, Schedule(100))
    objective = Objective(torch.compile(model) if compiled else model, token_loss)
    return lambda: training_step(objective, optimizers, batch)


def made(shape: str, task: str, options: argparse.Namespace) -> tuple[Any, GPT]:
    """A tokenizer for the task, and a model of the shape with random weights; a tiny one with --quick."""
    tasks = [task_of(task, options)]
    model = random_model(config_of("tiny" if options.quick else shape), options.device, options.dtype)
    return tokenizer_for(tasks, folder_for("tokenizer", tasks)), model


def median(work: Callable[[], Any], runs: int = 3) -> float:
    """Seconds that `work()` takes, the median of some runs after one that warms up."""
    work()
    return statistics.median(seconds(work) for _ in range(runs))


def copy_rate(options: argparse.Namespace) -> float:
    """Bytes a second, read and written, of a copy."""
    x = torch.empty(2**20 if options.quick else 2**31, dtype=torch.uint8, device=options.device)
    y = torch.empty_like(x)
    return 2 * x.numel() / median(lambda: y.copy_(x), 10)


def busy(work: Callable[[], Any]) -> float:
    """Seconds that the GPU works while `work()` runs."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        seconds(work)
    return sum(entry.self_device_time_total for entry in found.key_averages()) / 1e6


def forget() -> None:
    """Let go of what no variable holds any more, and of the peak so far; nothing where there is no GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> float:
    """GB that the GPU's tensors took at most since `forget`; 0 where there is no GPU."""
    return torch.cuda.max_memory_allocated() / GB


def join(folder: Path, file: Path) -> None:
    """Give the table in a file a column with what a run's records in a folder measured, named by card and day."""
    found = json.loads(file.read_text())
    rows = {row["work"]: row for row in found["rows"]}
    for one in sorted(folder.glob("*.json")):
        entry = json.loads(one.read_text())
        if entry["quick"]:
            sys.exit(f"{one} is of a --quick run, which measures nothing")
        column = f"{entry['machine']['gpu']}, {entry['date']}"
        found["runs"].setdefault(column, {}).update(versions=entry["versions"])
        for work, number in entry["measured"].items():
            rows.setdefault(work, {"work": work, "wanted": None})[column] = number
    found["rows"] = list(rows.values())
    write_whole(file, (json.dumps(found, indent=1) + "\n").encode())
    print(gpu_rows(found))


def gpu_rows(found: dict[str, Any]) -> str:
    """The rows of results/gpu.json as a Markdown table: the work, what is wanted, and a column for each run."""
    columns = ["work", "wanted", *found["runs"]]
    return table([{name: row.get(name) or "-" for name in columns} for row in found["rows"]])


if __name__ == "__main__":
    main()
