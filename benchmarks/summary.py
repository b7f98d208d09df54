"""Print the recorded results as the Markdown of the README's section "Performance".

python benchmarks/summary.py
"""

import json
from pathlib import Path

from common import HERE, table

FILES = {
    "fewshot": ("Few-shot evaluation", ("speed", "limit")),
    "memory": ("Memory", ("rows",)),
    "finetuning": ("Fine-tuning", ("rows", "derived_2.7B")),
    "momentum": ("Momentum attention", ("overhead", "forms", "memory")),
    "gpu_table": ("The paper's table on one GPU", ("rows",)),
}


def main() -> None:
    for name, (title, tables) in FILES.items():
        file = HERE / "results" / f"{name}.json"
        print(f"### {title}\n")
        print(section(file, tables) if file.is_file() else f"Not measured yet: `python benchmarks/{name}.py`.\n")


def section(file: Path, tables: tuple[str, ...]) -> str:
    """One benchmark's command, machine, tables and budgets."""
    found = json.loads(file.read_text())
    machine, versions = (", ".join(f"{k} {v}" for k, v in found[part].items()) for part in ("machine", "versions"))
    parts = [f"`{found['command']}`, {found['date']}. Machine: {machine}. Versions: {versions}.\n"]
    parts += [table(found[part]) + "\n" for part in tables]
    if found.get("budgets"):
        rows = [
            {
                "budget": one["what"],
                "wanted": f"{'at least' if one['at_least'] else 'at most'} {one['budget']:g}",
                "found": one["measured"],
                "met": "yes" if one["met"] else "no",
            }
            for one in found["budgets"]
        ]
        parts.append(table(rows) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    main()
