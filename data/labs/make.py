"""Makes the records of a lab: `python data/labs/make.py a --out data/labs/a`, and so on for b, c, d and e."""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save as serialise

from iclnb.labs import constructed_descent, ginc, induction, regression
from iclnb.model.checkpoints import load_model, save
from iclnb.paths import write_whole
from iclnb.training.loop import write_record


def regressors(options: argparse.Namespace) -> None:
    """Labs a and c: the models of regression.RECIPES, with their training, one file for each seed."""
    out, recipes = options.out, regression.RECIPES[options.lab]
    trainings = out.with_name(f"{out.name}.training")  # kept to the end: a stopped run goes on from them
    for name in [options.only] if options.only else recipes:
        for seed in range(options.seed, options.seed + regression.SEEDS[options.lab]):
            started, file = time.perf_counter(), f"{name}_seed{seed}" if regression.SEEDS[options.lab] > 1 else name
            model, record = regression.train(recipes[name], seed, trainings / file)
            regression.save(model, recipes[name], out / f"{file}.safetensors")
            write_record(record, out / f"{file}.csv")
            print(f"{file}: loss / d {record[-1]['loss']:.4f}, {time.perf_counter() - started:.0f} s", flush=True)
    shutil.rmtree(trainings)


def layers(options: argparse.Namespace) -> None:
    """Lab b: stacks of linear self-attention, several of each depth; those that are there are kept."""
    for name, recipe in constructed_descent.RECIPES.items():
        if (options.out / f"layers-{name}.safetensors").exists():
            continue
        trained, losses = constructed_descent.train(**recipe, progress=True)
        constructed_descent.save_layers(trained, recipe, options.out / f"layers-{name}.safetensors")
        print(f"{name}: loss {sum(losses[-100:]) / len(losses[-100:]):.4f} over the last 100 steps", flush=True)


def heads(options: argparse.Namespace) -> None:
    """Lab d: five trainings of each kind of attention-only model; of the first two-layer one, more and snapshots."""
    for kind, recipe in induction.KINDS.items():
        for seed in range(induction.SEEDS):
            _, record, snapshots = induction.grow(**recipe, seed=options.seed + seed)
            first = kind == "layers_2" and seed == 0
            if not first:  # the loss at each position is shown of the first alone
                record = [{name: x for name, x in row.items() if not name.startswith("loss_")} for row in record]
            write_record(record, options.out / f"{kind}_seed_{seed}.csv")
            if first:
                write_whole(options.out / "snapshots.safetensors", serialise(snapshots))


def readers(options: argparse.Namespace) -> None:
    """Lab e: the GPTs of three kinds of pretraining, as records and curves, and the first as a model."""
    out, curves, gains = options.out, [], []
    training = out.with_name(f"{out.name}.training")  # checkpoints: a stopped run goes on from them
    for kind in ginc.PRETRAINING:
        name = kind.replace(" ", "_")
        model, record = ginc.train_gpt(kind, seed=options.seed, folder=training / name, checkpoint_every=50)
        write_record(record, out / f"{name}.csv")
        if kind == "mixture":
            save(model, None, out, torch.float16)
            model = load_model(out, torch.device("cpu"), torch.float32)  # as it is stored
        for k in ginc.LENGTHS_OF_EXAMPLES if kind == "mixture" else [ginc.ABLATED_LENGTH]:
            curve, gain = ginc.icl_records(kind, k, *ginc.icl_answers(model, k))
            curves, gains = [*curves, *curve], [*gains, gain]
    write_record(curves, out / "curves.csv")
    write_record(gains, out / "gains.csv")
    shutil.rmtree(training)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lab", choices=("a", "b", "c", "d", "e"), help="which lab's")
    parser.add_argument("--out", required=True, type=Path, help="folder of the records")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data, but in b (default 0)")
    parser.add_argument("--only", help="labs a and c: one of the models (default: all)")
    options = parser.parse_args(arguments)
    known = regression.RECIPES.get(options.lab, {})
    if options.only is not None and options.only not in known:
        parser.error(f"argument --only: {options.only!r} is not one of {', '.join(known) or 'the models of a and c'}")
    torch.set_num_threads(1)  # another number rounds otherwise
    recipes = {"b": layers, "d": heads, "e": readers} | dict.fromkeys(regression.RECIPES, regressors)
    recipes[options.lab](options)


if __name__ == "__main__":
    main()
