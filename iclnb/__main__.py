"""The command line: `python -m iclnb table ...`."""

import argparse
import json
import os
import sys
from typing import Any

import pandas as pd

import iclnb
from iclnb.checkpoints import load
from iclnb.evaluate import POSITIONS
from iclnb.experiment import check_arguments, resolve_seed_and_rate, run_task
from iclnb.paths import chosen_model
from iclnb.results import Results, fingerprint
from iclnb.tasks import TASKS, load_task

MEASURES = {
    "rec2ftp": "Rec2FTP %",
    "sim_aou": "SimAOU",
    "sim_aou_random": "random",
    "sim_aou_random_zero_mean": "zero-mean",
    "sim_am": "SimAM",
    "sim_am_zsl": "before FT",
    "sim_am_update": "SimAM update",
    "kendall": "Kendall",
    "kendall_random": "random order",
}


def table(options: argparse.Namespace) -> None:
    """Compare in-context learning with fine-tuning on each task, and print what was found."""
    say = (lambda text: None) if options.quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    names = TASKS if options.task == "all" else tuple(options.task.split(","))
    tasks = [load_task(name, options.source) for name in names]
    say(f"loading {options.model}")
    model, tokenizer = load(options.model, options.device, options.dtype)
    for task in tasks:
        check_arguments(model, tokenizer, task, options.k, options.seed, options.lr, options.limit)
    results, records = Results(options.out), {}
    results.prepare()
    for number, task in enumerate(tasks, start=1):
        where = f"[{number}/{len(tasks)}] {task.name}"
        seed, lr = resolve_seed_and_rate(task, options.seed, options.lr)
        config = {
            "model": options.model,
            "weights": fingerprint(model),
            "dtype": str(model.embed_tokens.weight.dtype).removeprefix("torch."),
            "task": task.name,
            "source": task.source,
            "examples": fingerprint(task),
            "k": options.k,
            "seed": seed,
            "lr": lr,
            "limit": options.limit,
            "position": options.position,
        }
        record = results.find(config)
        if record is None:
            record = run_task(
                model,
                tokenizer,
                task,
                k=options.k,
                seed=seed,
                lr=lr,
                limit=options.limit,
                position=options.position,
                batch_size=options.batch_size,
                say=lambda text, where=where: say(f"{where}: {text}"),
            )
            file = results.save(config, record)
            say(f"{where}: stored in {file}")
        else:
            say(f"{where}: found in {results.file(config)}")
        records[task.name] = record
    print(json.dumps(records, indent=1) if options.json else render(records, options))


def render(records: dict[str, dict[str, Any]], options: argparse.Namespace) -> str:
    """The records as two tables of text: accuracy with intervals, and the measures beside their controls."""
    accuracy = [
        {
            "task": name,
            "n": str(record["n"]),
            "k": str(record["k_used"]),
            "seed": str(record["seed"]),
            "lr": f"{record['lr']:g}",
        }
        | {
            run.upper(): "{mean:.1f} [{low:.1f}, {high:.1f}]".format(**record["accuracy"][run])
            for run in ("zsl", "ft", "icl")
        }
        for name, record in records.items()
    ]
    found = pd.DataFrame(
        {label: {name: _mean(record, key) for name, record in records.items()} for key, label in MEASURES.items()}
    )
    if len(records) > 1:
        means = {run: _average(r["accuracy"][run]["mean"] for r in records.values()) for run in ("zsl", "ft", "icl")}
        accuracy.append({"task": "mean"} | {run.upper(): f"{mean:.1f}" for run, mean in means.items()})
        found.loc["mean"] = found.mean()
    found.insert(0, "task", found.index)
    text = [
        f"{options.model}, source {options.source}, position {options.position}",
        "",
        "Accuracy, % [95 % interval]: zero-shot, fine-tuned keys and values, in-context learning",
        pd.DataFrame(accuracy).fillna("").to_string(index=False, justify="left"),
        "",
        "ICL against FT, each measure followed by its controls (nan: undefined)",
        found.to_string(index=False, float_format=lambda x: f"{x:.3f}", na_rep="nan"),
    ]
    return "\n".join(text)


def _mean(record: dict[str, Any], measure: str) -> float:
    value = record["measures"].get(measure, {}).get("mean")
    return float("nan") if value is None else value


def _average(values) -> float:
    return pd.Series(list(values)).mean()


def _rate(text: str) -> float | str:
    """ "held-out" and "published" as they are, anything else as a number."""
    return text if text in ("held-out", "published") else float(text)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for a failed run, 2 for bad input, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m iclnb", description=iclnb.__doc__)
    parser.add_argument("--version", action="version", version=iclnb.__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    sub = commands.add_parser("table", help="ZSL, FT and ICL accuracy, and how alike FT and ICL are, per task")
    sub.set_defaults(command=table)
    sub.add_argument(
        "--model", default=chosen_model(), help="name, folder or Hub id (default: ICLNB_MODEL or pocket-gpt)"
    )
    sub.add_argument("--task", default="all", help=f"one or more of {', '.join(TASKS)}, with commas; or all (default)")
    sub.add_argument("--source", default="auto", help="sample, hub or a folder of <task>/<split>.jsonl (default: auto)")
    sub.add_argument("--limit", type=int, help="evaluation examples a task (default: all, at most 2,000)")
    sub.add_argument("--k", type=int, default=32, help="demonstrations (default: 32, or as many as fit)")
    sub.add_argument("--seed", type=int, help="of the demonstrations (default: 1, or the published one)")
    sub.add_argument("--lr", type=_rate, default="held-out", help="a number, held-out (default) or published")
    sub.add_argument("--position", choices=POSITIONS, default="query", help="recorded position (default: query)")
    sub.add_argument("--batch-size", type=int, help="queries a forward pass (default: from free memory)")
    sub.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    sub.add_argument("--dtype", default="auto", help="auto (default), float32, float64, float16 or bfloat16")
    sub.add_argument("--out", default="results", help="folder of stored results (default: results)")
    sub.add_argument("--json", action="store_true", help="print JSON instead of the table")
    sub.add_argument("--quiet", action="store_true", help="no progress")
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
    except KeyboardInterrupt:
        print(f"iclnb: stopped; finished tasks are kept in {options.out}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
