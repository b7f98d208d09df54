"""Build the page "Teach pocket-gpt", which needs nothing but a static folder, into build/live.

    python tools/live.py            what is in docs/live, with the model as ONNX, its vocabulary, its tasks, its runtime

Letters: T tokens, A of them whose next token is asked for, L layers, H heads, V vocabulary.
"""

import gzip
import json
import logging
import re
import shutil
import string
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.convert_slow_tokenizer import bytes_to_unicode

import iclnb
import npm
from iclnb.language import miniatures
from iclnb.model.gpt import GPT
from iclnb.model.recorder import Recorder
from iclnb.tasks import TASKS, Task
from iclnb.teaching import plots

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "live"
OUT = ROOT / "build" / "live"
DATA = "data.json"  # written last
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # with one thread it asks for no special headers
SAMPLES = {"train": 128, "evaluation": 64}  # sentences that the page offers, of each task
TRAINED = 640  # tokens of the longest sequence that pocket-gpt was trained on


class Live(nn.Module):
    """What the page asks of the model: logits wherever it wants them, and where the last of these places looks."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and attention weights.

        Args:
            ids, positions: token ids and their places, (1, T) int64.
            mask: which tokens each token sees, (1, 1, T, T) bool.
            at: tokens whose next token is asked for, (A,) int64.

        Returns:
            Logits, (A, V), and the attention weights of the last of `at`, (L, H, T).
        """
        model, recorder = self.model, Recorder("scores", at=at[-1:])
        added = torch.zeros(()).masked_fill(~mask, float("-inf"))  # (1, 1, T, T) once, instead of in every layer
        x, rotary = model._embed(ids, positions)  # (1, T, C)
        for block in model.blocks:
            x = block(x, rotary, None, added, recorder)  # (1, T, C)
        weights = (torch.cat(recorder.layers["scores"]) + added[0, 0, at[-1]]).softmax(-1)  # (L, H, T)
        return model.logits(model.final_norm(x[0, at])), weights


def export(model: GPT, file: Path) -> None:
    """Writes the model, in float32, as ONNX, for any T up to its number of positions and any A."""
    T, A = torch.export.Dim("T", min=2, max=model.config.n_positions), torch.export.Dim("A", min=1, max=512)
    n = 5  # tokens of the example; neither 1 nor as long as anything else is
    example = (torch.arange(n)[None], torch.arange(n)[None], torch.ones(1, 1, n, n).tril() > 0, torch.arange(3))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nothing here needs
    with warnings.catch_warnings(action="ignore"):  # about names within torch
        traced = torch.export.export(Live(model).eval(), example, dynamic_shapes=({1: T}, {1: T}, {2: T, 3: T}, {0: A}))
        names = {"input_names": ["ids", "positions", "mask", "at"], "output_names": ["logits", "attention"]}
        program = torch.onnx.export(traced, dynamo=True, verbose=False, **names)
    program.save(file)


def vocabulary(tokenizer) -> dict:
    """The tokenizer as a table: ids of words, of the 256 bytes, and of the two special tokens."""
    byte_of, ids = {char: byte for byte, char in bytes_to_unicode().items()}, tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    words = {t: i for t, i in ids.items() if len(t) > 1 and t not in special}
    return {
        "start": tokenizer.bos_token_id,
        "end": tokenizer.eos_token_id,
        "words": {bytes(byte_of[char] for char in t).decode(): i for t, i in sorted(words.items(), key=lambda x: x[1])},
        "bytes": [ids[char] for _, char in sorted((byte, char) for char, byte in byte_of.items())],
    }


def describe(task: Task) -> dict:
    """A task for the page: template, fields, answers, and sample sentences as the texts of the fields and a label."""
    names = [name for _, name, _, _ in string.Formatter().parse(task.spec.template) if name]
    pattern = re.compile("(.+)".join(map(re.escape, re.split(r"\{\w+\}", task.spec.template))))
    pools = {"train": task.demonstrations(SAMPLES["train"], seed=1), "evaluation": task.evaluation}
    samples = {
        split: [[*pattern.fullmatch(example.text).groups(), example.label] for example in pool[: SAMPLES[split]]]
        for split, pool in pools.items()
    }
    about = miniatures.TASKS[task.name].attribute
    return {"about": about, "template": task.spec.template, "fields": names, "answers": task.answers, **samples}


def build(out: Path = OUT) -> None:
    """Puts the page together in the folder `out`.

    Raises:
        npm.NotFetched: the runtime is not there, and npm does not bring it.
    """
    model, tokenizer = iclnb.load("pocket-gpt", device="cpu", dtype="float32")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(PAGE, out)
    npm.extract("onnxruntime-web", {f"dist/{name}": out / "ort" / name for name in RUNTIME})
    program = out / "ort" / RUNTIME[1]
    program.with_name(f"{program.name}.gz").write_bytes(gzip.compress(program.read_bytes(), mtime=0))  # a quarter of it
    program.unlink()
    export(model, out / "pocket-gpt.onnx")
    data = {
        "limits": {"trained": TRAINED, "positions": model.config.n_positions},
        "layers": model.config.n_layer,
        "heads": model.config.n_head,
        "colours": plots.PALETTE.as_hex(),
        "meaningless": miniatures.ARBITRARY_ANSWERS[:5],
        "tasks": {name: describe(iclnb.load_task(name, "sample")) for name in TASKS},
        "vocabulary": vocabulary(tokenizer),
    }
    (out / DATA).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def is_fresh(out: Path = OUT) -> bool:
    """Whether the page lies in the folder `out`, and nothing that it is made of has changed since."""
    folders = (PAGE, ROOT / "tools", ROOT / "data" / "pocket-gpt", ROOT / "iclnb")
    files = [file for folder in folders for file in folder.rglob("*.*") if file.suffix != ".pyc"]
    newest = max(file.stat().st_mtime for file in files if file.is_file())
    return (out / DATA).exists() and newest < (out / DATA).stat().st_mtime


if __name__ == "__main__":
    build()
    size = sum(file.stat().st_size for file in OUT.rglob("*") if file.is_file())
    print(f"build/live: {size / 1e6:.1f} MB; to see it: python -m http.server -d build/live")
