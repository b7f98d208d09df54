"""What the benchmarks share: random checkpoints in the fairseq layout, a tokenizer, timing, and the record of a run."""

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer

from iclnb.model.checkpoints import load_tokenizer, save
from iclnb.model.gpt import GPT, GPTConfig
from iclnb.paths import write_whole
from iclnb.tasks.task import Task, load_task

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "benchmarks"  # random checkpoints, and the records of --quick runs
SHAPES = {"tiny": (2, 64, 4), "125M": (12, 768, 12), "1.3B": (24, 2048, 32), "2.7B": (32, 2560, 32)}  # L, C, H
VOCABULARY = 8000  # entries of a BPE with which sst2's sentences get about as many tokens as with GPT-2's, 25
PACKAGES = ("iclnb", "torch", "transformers", "tokenizers", "numpy", "lm_eval")


def parse(parser: argparse.ArgumentParser, sentences: bool = True) -> argparse.Namespace:
    """The command line of a benchmark: its own options, and those that all have; sets the number of threads.

    A benchmark that needs no sentences runs without a folder of real tasks.
    """
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, in seconds: tries the script, measures nothing"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: torch's)")
    parser.add_argument(
        "--data", default=os.environ.get("ICLNB_DATA"), help="folder of real tasks (default: ICLNB_DATA)"
    )
    parser.add_argument("--out", type=Path, help="folder of the record (default: benchmarks/results)")
    options = parser.parse_args()
    if sentences and not options.quick and not options.data:
        parser.error("the sentences come from a folder of real tasks; name it with --data or ICLNB_DATA")
    torch.set_num_threads(options.threads)
    options.out = options.out or (BUILD / "quick" if options.quick else HERE / "results")
    return options


def task_of(name: str, options: argparse.Namespace) -> Task:
    """The real task from --data; with --quick, a part of the miniature one that comes with the package."""
    if not options.quick:
        return load_task(name, source=options.data)
    task = load_task(name, source="sample")
    return dataclasses.replace(task, train=task.train[:300], evaluation=task.evaluation[:40])


def config_of(shape: str) -> GPTConfig:
    """A shape of the fairseq dense family, with its 50261 vocabulary entries; "tiny" is a small one of that kind."""
    layers, width, heads = SHAPES[shape]
    return GPTConfig(50261, layers, heads, width, scale_embeddings=True, bos_token_id=50257, eos_token_id=50259)


def texts_of(tasks: Sequence[Task]) -> list[str]:
    """All training examples with their answers."""
    return [f"{example.text} {task.answers[example.label]}" for task in tasks for example in task.train]


def folder_for(kind: str, tasks: Sequence[Task]) -> Path:
    """A folder below build/ for what is made from the tasks' examples: another one when the examples change."""
    digest = hashlib.sha256("\n".join(texts_of(tasks)).encode()).hexdigest()
    return BUILD / f"{kind}-{digest[:8]}"


def tokenizer_for(tasks: Sequence[Task], folder: Path) -> Any:
    """A byte-level BPE in GPT-2's files, trained on the tasks' training examples and kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer_config.json").is_file():
        bpe = ByteLevelBPETokenizer()
        bpe.train_from_iterator(texts_of(tasks), vocab_size=VOCABULARY, min_frequency=2, show_progress=False)
        bpe.save_model(str(folder))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    return load_tokenizer(folder)


def checkpoint(shape: str, task: Task) -> Path:
    """Folder of a random float32 checkpoint of a shape, with a tokenizer for the task; made where it is missing."""
    folder = folder_for(shape, [task])
    if not (folder / "model.safetensors").is_file():
        save(GPT(config_of(shape)).initialise(seed=0), tokenizer_for([task], folder), folder)
    return folder


class Clock:
    """Seconds of a block: `with Clock() as clock: ...`, then clock.seconds; waits for the GPU's queue."""

    def __enter__(self) -> "Clock":
        synchronise()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error) -> None:
        synchronise()
        self.seconds = time.perf_counter() - self.start


def synchronise() -> None:
    """Wait for everything that was sent to the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any]) -> float:
    """Seconds that `work()` takes."""
    with Clock() as clock:
        work()
    return clock.seconds


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Median, least and greatest of repeated measurements, and how many there are."""
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def budget(what: str, measured: float, limit: float, at_least: bool = True) -> dict[str, Any]:
    """A budget of the design, what was measured against it, and whether it is met; prints the sentence."""
    met = measured >= limit if at_least else measured <= limit
    word = "at least" if at_least else "at most"
    print(f"{what}: {measured:.3g}, wanted {word} {limit:g}: {'met' if met else 'NOT MET'}")
    return {"what": what, "measured": measured, "budget": limit, "at_least": at_least, "met": met}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with the same keys as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> dict[str, Any]:
    """What the run is on: processor, memory, GPU; no names of hosts or users."""
    found = {
        "system": platform.system(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found["processor"] = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        found["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, where they are installed; torch's names its build too."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found | {"torch": torch.__version__}


def record(name: str, options: argparse.Namespace, found: dict[str, Any], script: str | None = None) -> Path:
    """Write what a benchmark found, with machine, versions and command, into <out>/<name>.json."""
    words, hidden = [], {str(options.data), str(options.out), str(options.out.resolve())}
    for word in sys.argv[1:]:
        words.append("FOLDER" if word in hidden else word)
    entry = {
        "command": " ".join(["python", f"benchmarks/{script or name}.py", *words]),
        "date": time.strftime("%Y-%m-%d"),
        "quick": options.quick,
        "machine": machine() | {"threads": torch.get_num_threads()},
        "versions": versions(),
    }
    file = options.out / f"{name}.json"
    write_whole(file, (json.dumps(entry | found, indent=1) + "\n").encode())
    print(f"\nwritten to {file.name}")
    return file
