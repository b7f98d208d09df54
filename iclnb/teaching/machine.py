"""What the notebooks rely on, and whether it is there."""

import hashlib
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from iclnb.model.checkpoints import load
from iclnb.paths import EMBEDDED, data_folder

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "scipy", "matplotlib", "ipywidgets")


def check_machine() -> None:
    """Prints a line for each thing that the notebooks rely on: "[OK]", or "[FAIL]" and what to do."""
    _say("Python 3.11 or newer", sys.version_info >= (3, 11), "install a newer Python, or open this notebook in Colab")
    for package in PACKAGES:
        _say(package, _installed(package), f"run `pip install {package}`")
    folder = data_folder() / EMBEDDED
    try:
        checksum = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        whole = checksum in (folder / "README.md").read_text(encoding="utf-8")  # the model's card names it
    except OSError:
        whole = False
    _say("pocket-gpt is whole", whole, "its weights are damaged or missing; get them again")
    if whole:
        model, _ = load(EMBEDDED)
        logits = model(torch.zeros(1, 4, dtype=torch.long))  # (1, 4, V)
        _say("pocket-gpt computes", logits.isfinite().all().item(), "reinstall torch")


def _say(what: str, found: bool, advice: str) -> None:
    print(f"[OK]   {what}" if found else f"[FAIL] {what}: {advice}")


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False
