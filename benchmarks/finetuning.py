"""What does an attention-only fine-tuning step cost, against a plain loop with transformers and torch's SGD?

A random checkpoint of the 125M shape and the 32 demonstrations of sst2: one epoch, one demonstration a step. Both must
end in the same weights. The memory that 2.7B takes in 16 bits is derived, term by term.

    python benchmarks/finetuning.py --threads 2 --data path/to/data
"""

import argparse

import torch
from common import budget, checkpoint, config_of, parse, record, seconds, spread, table, task_of
from peers import load_xglm

from iclnb import load
from iclnb.experiment.finetune import train_on
from iclnb.model.memory import finetuning_bytes
from iclnb.tasks.prompts import build_prompt

K, SEED, RATE, TOLERANCE = 32, 1, 0.05, 1e-5
FREE_GPU = 15  # GB that a free Colab T4 leaves
KEYS_AND_VALUES = ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each, in turn")
    options = parse(parser)
    if options.quick:
        options.rounds = 2
    task = task_of("sst2", options)
    folder = checkpoint("tiny" if options.quick else "125M", task)
    model, tokenizer = load(folder, device="cpu", dtype="float32")
    sequences = build_prompt(model.config, tokenizer, task, 4 if options.quick else K, SEED).sequences
    times, results = {"ours": [], "transformers": []}, {}

    def ours():
        results["ours"] = train_on(model, sequences, RATE).model

    for _ in range(1 + options.rounds):  # the first warms up
        times["ours"].append(seconds(ours))
        hf = load_xglm(folder, torch.float32)  # afresh, since the loop changes it
        times["transformers"].append(seconds(lambda hf=hf: plain_loop(hf, sequences)))
        results["transformers"] = hf
    times = {way: spread(values[1:]) for way, values in times.items()}
    gap, moved = largest_gap(results["ours"], results["transformers"], model)
    rows = [
        {
            "way": way,
            "steps": len(sequences),
            "seconds a step": time["median"] / len(sequences),
            "least": time["min"] / len(sequences),
            "greatest": time["max"] / len(sequences),
            "times ours": time["median"] / times["ours"]["median"],
        }
        for way, time in times.items()
    ]
    print(table(rows))
    same = gap <= TOLERANCE and moved > 10 * TOLERANCE
    print(f"\nlargest difference of a trained weight: {gap:.1e}, while weights moved by up to {moved:.1e}: ", end="")
    print("the same update" if same else "NOT THE SAME UPDATE")
    derived = derive_memory([max(map(len, sequences)), 512, 2048])
    print("\n2.7B in 16 bits, derived:\n\n" + table(derived) + "\n")
    whole = derived[-1]["all, GB"]
    judged = [budget("GB to fine-tune 2.7B in 16 bits on 2,048 tokens, derived", whole, FREE_GPU, at_least=False)]
    found = {"rows": rows, "largest_gap": gap, "largest_move": moved, "same_update": same, "derived_2.7B": derived}
    record("finetuning", options, found | {"budgets": judged})


def plain_loop(hf, sequences: list[list[int]]) -> None:
    """The same update as a user of transformers writes it: everything frozen but keys and values, torch's SGD."""
    for name, parameter in hf.named_parameters():
        parameter.requires_grad_(name.endswith(KEYS_AND_VALUES))
    descent = torch.optim.SGD([p for p in hf.parameters() if p.requires_grad], lr=RATE)
    for sequence in sequences:
        ids = torch.tensor([sequence])  # (1, T)
        descent.zero_grad()
        hf(ids, labels=ids).loss.backward()  # in eval mode: without dropout
        descent.step()


@torch.no_grad()
def largest_gap(ours, hf, start) -> tuple[float, float]:
    """Largest difference between the trained weights of the two, and how far ours moved from the start."""
    theirs, gaps, moves = dict(hf.named_parameters()), [], []
    for (name, new), old in zip(ours.named_parameters(), start.parameters(), strict=True):
        if name.endswith(KEYS_AND_VALUES):
            other = theirs[name.replace("blocks.", "model.layers.").replace(".attn.", ".self_attn.")]
            gaps.append(float((new - other).abs().max()))
            moves.append(float((new - old).abs().max()))
    return max(gaps), max(moves)


def derive_memory(lengths: list[int]) -> list[dict]:
    """Gigabytes that fine-tuning 2.7B in 16 bits holds, by what they are for; a row for each length of sequence."""
    rows = []
    for tokens in lengths:
        parts = finetuning_bytes(config_of("2.7B"), torch.float16, tokens)
        rows.append({"tokens": tokens} | {f"{name}, GB": size / 1e9 for name, size in parts.items()})
        rows[-1]["all, GB"] = sum(parts.values()) / 1e9
    return rows


if __name__ == "__main__":
    main()
