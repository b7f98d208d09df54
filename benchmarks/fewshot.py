"""How fast is few-shot evaluation, against other ways to the same predictions and against the machine's own limit?

A random checkpoint of the 125M shape, k = 32 demonstrations of sst2 and its 872 evaluation sentences. Speed does not
depend on the weights. Other ways are timed on a part of the queries, spread evenly over their lengths, since one query
takes them seconds; they get token ids, while ours starts from text.

    python benchmarks/fewshot.py --threads 2 --data path/to/data
"""

import argparse
from typing import Any

import torch
from common import Clock, budget, checkpoint, parse, record, seconds, spread, table, task_of
from peers import encode_prefix, full_prompt, harness, load_harness, load_xglm, repeated_cache
from products import Products, Replay, operations

from iclnb import few_shot, load
from iclnb.experiment.predict import stream
from iclnb.tasks.prompts import encode_task

K, SEED, BATCH = 32, 1, 16
PEER_BATCHES = (8, 16, 32)  # of the repeated cache; the fastest counts
BUDGETS = {"harness": {"float32": 40}, "repeated cache": {"float32": 3, "bfloat16": 6}}
LIMIT = 0.8  # share of the time that the matrix products alone take, from 16 queries a batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, each with other queries for the peers")
    parser.add_argument(
        "--full-queries", type=int, default=4, help="queries a round for the ways that re-read the prompt"
    )
    parser.add_argument("--cached-batches", type=int, default=4, help="batches a round for the repeated cache")
    options = parse(parser)
    if options.quick:
        options.rounds, options.full_queries, options.cached_batches, options.dtypes = 2, 2, 1, "float32"
    task = task_of("sst2", options)
    folder = checkpoint("tiny" if options.quick else "125M", task)
    found = {"budgets": [], "speed": [], "limit": []}
    for dtype in options.dtypes.split(","):
        setting = Setting(folder, dtype, task)
        found.setdefault("setting", setting.about())
        rows = compare(setting, options)
        found["speed"] += rows
        print("\n" + table(rows) + "\n")
        for row in rows[1:]:
            wanted = BUDGETS.get(row["way"], {}).get(dtype)
            if wanted is not None and not options.quick:
                found["budgets"].append(budget(f"{dtype}: times faster than {row['way']}", row["times ours"], wanted))
            if dtype == "float32":
                what = f"float32: share of {row['way']}'s predictions that equal ours"
                found["budgets"].append(budget(what, row["same predictions"], 1))
        rows = [against_limit(setting, batch) for batch in (BATCH, 4 * BATCH)]
        found["limit"] += rows
        print("\n" + table(rows) + "\n")
        for row in rows if not options.quick else ():
            what = f"{dtype}, batches of {row['batch']}: share of the machine's own limit"
            found["budgets"].append(budget(what, row["share of limit"], LIMIT))
    record("fewshot", options, found)


class Setting:
    """One checkpoint in one dtype, as ours and as transformers' model, and the token ids that all ways share."""

    def __init__(self, folder, dtype: str, task):
        self.dtype, self.task = dtype, task
        self.model, self.tokenizer = load(folder, device="cpu", dtype=dtype)
        self.hf = load_xglm(folder, getattr(torch, dtype))
        self.lm = load_harness(self.hf, self.tokenizer, batch=1)  # the harness's default
        encoded = encode_task(self.model.config, self.tokenizer, task, K, SEED)
        self.prompt, self.queries = encoded.prompt, encoded.queries
        assert all(len(ids) == 1 for ids in encoded.answers), "the peers score answers of one token"
        self.answers = [ids[0] for ids in encoded.answers]
        self.by_length = sorted(range(len(self.queries)), key=lambda i: len(self.queries[i]))

    def about(self) -> dict[str, Any]:
        """Sizes that the numbers depend on."""
        tokens = [len(ids) for ids in self.queries]
        return {
            "task": self.task.name,
            "layers": self.model.config.n_layer,
            "width": self.model.config.n_embd,
            "k": self.prompt.k,
            "prefix_tokens": len(self.prompt.prefix),
            "queries": len(tokens),
            "mean_query_tokens": sum(tokens) / len(tokens),
            "max_query_tokens": max(tokens),
        }

    def spaced(self, count: int, width: int, shift: float) -> list[list[int]]:
        """`count` runs of `width` queries, neighbours in length, spread evenly; `shift` in [0, 1) moves them."""
        runs = [self.by_length[i : i + width] for i in range(0, len(self.by_length), width)]
        return [runs[int((i + shift) * len(runs) / count)] for i in range(min(count, len(runs)))]


def compare(setting: Setting, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds a query of every way, one after the other in each round; whether they predict the same."""
    prefix, answers, queries, n = setting.prompt.prefix, setting.answers, setting.queries, len(setting.queries)
    times: dict[str, list[float]] = {}
    outputs: dict[str, dict[int, torch.Tensor]] = {}

    def take(way: str, work, rows: list[int], shared: float = 0.0) -> None:
        with Clock() as clock:
            log_probs = work([queries[i] for i in rows])  # (rows, answers)
        times.setdefault(way, []).append(shared + clock.seconds / len(rows))
        outputs.setdefault(way, {}).update(zip(rows, log_probs, strict=True))

    ways = {"full prompt": lambda q: full_prompt(setting.hf, prefix, q, answers)}
    if setting.lm is not None:
        ways["harness"] = lambda q: harness(setting.lm, prefix, q, answers)
    else:
        print("lm_eval is not installed (see README.md): lm-evaluation-harness is left out")
    for run in range(-1, options.rounds):  # the first warms up
        if run == 0:
            times.clear()
        shift = (max(run, 0) + 0.5) / options.rounds
        with Clock() as clock:
            ours = few_shot(setting.model, setting.tokenizer, setting.task, K, SEED, limit=BATCH if run < 0 else None)
        times.setdefault("ours", []).append(clock.seconds / len(ours.labels))
        rows = [run[0] for run in setting.spaced(1 if run < 0 else options.full_queries, 1, shift)]
        for way, work in ways.items():
            take(way, work, rows)
        with Clock() as clock:
            encoded = encode_prefix(setting.hf, prefix)
        for batch in PEER_BATCHES:
            runs = setting.spaced(1 if run < 0 else options.cached_batches, max(PEER_BATCHES), shift)

            def cached(q, encoded=encoded, batch=batch):
                return repeated_cache(setting.hf, encoded, q, answers, batch)

            take(f"repeated cache, {batch}", cached, [i for run in runs for i in run], clock.seconds / n)
    best = min((f"repeated cache, {batch}" for batch in PEER_BATCHES), key=lambda way: spread(times[way])["median"])
    rows = []
    for way in ["ours", *ways, best]:
        time = spread(times[way])
        theirs = outputs.get(way, {})
        pairs = [(ours.log_probs[i], log_probs) for i, log_probs in theirs.items()]
        rows.append(
            {
                "dtype": setting.dtype,
                "way": way.split(",")[0],
                "queries a round": n if way == "ours" else len(theirs) // options.rounds,
                "seconds a query": time["median"],
                "least": time["min"],
                "greatest": time["max"],
                "times ours": time["median"] / spread(times["ours"])["median"],
                "largest difference": max((float((a - b).abs().max()) for a, b in pairs), default=0.0),
                "same predictions": sum(bool(a.argmax() == b.argmax()) for a, b in pairs) / max(1, len(pairs)),
            }
        )
    rows[0]["same predictions"] = 1.0
    return rows


def against_limit(setting: Setting, batch: int) -> dict[str, Any]:
    """Ours against its own matrix products alone, batch by batch: a batch of ours, then its products."""

    def batches():
        encoded = encode_task(setting.model.config, setting.tokenizer, setting.task, K, SEED)
        yield from stream(setting.model, encoded, batch_size=batch)

    products, running = [], batches()
    while True:  # notes the products of each batch; the prefix is encoded with the first
        with Products(setting.model) as noted:
            if next(running, None) is None:
                break
        products.append(noted.done)
    replay = Replay([p for part in products for p in part], setting.model.embed_tokens.weight)
    replay(products[0])
    running, ours, alone = batches(), 0.0, 0.0
    for part in products:
        ours += seconds(lambda: next(running))
        alone += seconds(lambda part=part: replay(part))
    done = sum(map(operations, products))
    return {
        "dtype": setting.dtype,
        "batch": batch,
        "seconds, ours": ours,
        "seconds, products alone": alone,
        "share of limit": alone / ours,
        "GFLOP/s, ours": done / ours / 1e9,
        "GFLOP/s, products alone": done / alone / 1e9,
    }


if __name__ == "__main__":
    with torch.no_grad():
        main()
