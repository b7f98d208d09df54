"""Print the oldest versions that pyproject.toml allows, as constraints for pip; torch is that of constraints.txt."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    bounds = dict(re.match(r"([\w.-]+)>=([\w.]+)", line).groups() for line in lines if ">=" in line)
    bounds["torch"] = re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    print("\n".join(f"{name}=={version}" for name, version in bounds.items()))


if __name__ == "__main__":
    main()
