"""The six classification tasks: template, answers, and where the examples come from."""

import codecs
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import NamedTuple

import numpy as np

from iclnb.paths import EMBEDDED, chosen_model, local_path

EVALUATION_SEED = 1  # the official code shuffles every evaluation split with it
EVALUATION_LIMIT = 2000  # and keeps at most so many examples


class TaskError(ValueError):
    """A task, source or example that cannot be used."""


class Example(NamedTuple):
    """One example: the filled template, and the index of its gold answer."""

    text: str
    label: int


@dataclass(frozen=True)
class TaskSpec:
    """What defines a task, apart from its examples.

    Args:
        name: short name.
        template: text with named fields in braces; the query's text, and a demonstration's up to the answer.
        answers: one per class, in label order; an answer follows the template after one space.
        hub_id, hub_config, revision: dataset on the Hub, pinned to a commit that holds data files and no script.
        evaluation_split: the Hub's name of the split that accuracy is measured on.
    """

    name: str
    template: str
    answers: tuple[str, ...]
    hub_id: str = ""
    hub_config: str | None = None
    revision: str = ""
    evaluation_split: str = "validation"

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that the template needs."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.template) if name)


# Templates and answers: the official code of Dai et al. (understand_icl in microsoft/LMOps).
SPECS = {
    spec.name: spec
    for spec in (
        TaskSpec(
            "sst2",
            "Sentence: {sentence} Label:",
            ("Negative", "Positive"),
            hub_id="nyu-mll/glue",
            hub_config="sst2",
            revision="bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
        ),
        TaskSpec(
            "sst5",
            "Sentence: {text} Label:",
            ("terrible", "bad", "neutral", "good", "great"),
            hub_id="SetFit/sst5",
            revision="e51bdcd8cd3a30da231967c1a249ba59361279a3",
        ),
        TaskSpec(
            "mr",
            "Review: {text} Sentiment:",
            ("Negative", "Positive"),
            hub_id="cornell-movie-review-data/rotten_tomatoes",
            revision="aa13bc287fa6fcab6daf52f0dfb9994269ffea28",
        ),
        TaskSpec(
            "subj",
            "Input: {text} Type:",
            ("objective", "subjective"),
            hub_id="SetFit/subj",
            revision="f3c1162e678417f664d76b21864fdb87b0615fcf",
            evaluation_split="test",
        ),
        TaskSpec(
            "agnews",
            "Classify the news articles into the categories of World, Sports, Business, and Technology. "
            "Article: {text} Answer:",
            ("World", "Sports", "Business", "Technology"),
            hub_id="fancyzhx/ag_news",
            revision="eb185aade064a813bc0b7f42de02595523103ca4",
            evaluation_split="test",
        ),
        TaskSpec(
            "cb",
            "{premise} Question: {hypothesis}. True, False, or Neither? Answer:",
            ("True", "False", "Neither"),
            hub_id="aps/super_glue",
            hub_config="cb",
            revision="3de24cf8022e94f4ee4b9d55a6f539891524d646",
        ),
    )
}
TASKS = tuple(SPECS)


@dataclass(frozen=True)
class Task:
    """A task with its examples.

    Args:
        spec: template and answers.
        source: where the examples come from: "sample", "hub" or a folder.
        train: the train split in its stored order; demonstrations are drawn from it by `demonstrations`.
        evaluation: at most 2,000 examples of the evaluation split, already shuffled with seed 1.
    """

    spec: TaskSpec
    source: str
    train: tuple[Example, ...]
    evaluation: tuple[Example, ...]

    @property
    def name(self) -> str:
        """Short name of the task."""
        return self.spec.name

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers, in label order."""
        return self.spec.answers

    def demonstrations(self, k: int, seed: int) -> list[Example]:
        """The first k examples of the train split after the `datasets` library's shuffle with `seed`.

        Raises:
            TaskError: k is negative or larger than the train split.
        """
        if not 0 <= k <= len(self.train):
            raise TaskError(f"k is {k}; task {self.name} has {len(self.train)} training examples")
        return [self.train[i] for i in shuffled(len(self.train), seed)[:k]]


def shuffled(n: int, seed: int) -> np.ndarray:
    """The order (n,) int in which `datasets.Dataset.shuffle(seed)` puts n rows."""
    return np.random.default_rng(seed).permutation(n)


def load_task(name: str, source: str | Path = "auto") -> Task:
    """Load one of the six tasks.

    Args:
        name: "sst2", "sst5", "mr", "subj", "agnews" or "cb".
        source: "sample", the tasks of iclnb.miniatures, which pocket-gpt can solve; "hub", the real datasets;
            a folder with `<task>/<split>.jsonl` files and the Hub's field names; or "auto", which is what the
            environment variable ICLNB_DATA says, else "sample" where the chosen model is pocket-gpt, else "hub".

    Returns:
        The task with its examples.

    Raises:
        TaskError: unknown task or source, a missing split, or a row that does not fit (file and line are named).
    """
    if name not in SPECS:
        raise TaskError(f"task is {name!r}; known are {', '.join(TASKS)}")
    source = choose_source(source)
    if source == "sample":
        return _from_world(name)
    spec = SPECS[name]
    if source == "hub":
        splits = _from_hub(spec)
    elif local_path(source).is_dir():
        splits = {split: _from_file(spec, local_path(source), split) for split in ("train", spec.evaluation_split)}
    else:
        raise TaskError(f"source is {str(source)!r}, which is no folder here; accepted are 'sample', 'hub' or a folder")
    return build_task(spec, str(source), splits["train"], splits[spec.evaluation_split])


def choose_source(source: str | Path) -> str:
    """Where load_task takes the examples from: `source` itself, or what "auto" stands for now."""
    if source != "auto":
        return str(source)
    return os.environ.get("ICLNB_DATA") or ("sample" if chosen_model() == EMBEDDED else "hub")


def build_task(spec: TaskSpec, source: str, train: Iterable[Example], evaluation: Iterable[Example]) -> Task:
    """A task from examples in their stored order, its evaluation split shuffled and cut as the paper does."""
    train, evaluation = tuple(train), tuple(evaluation)
    order = shuffled(len(evaluation), EVALUATION_SEED)[:EVALUATION_LIMIT]
    return Task(spec, source, train, tuple(evaluation[i] for i in order))


def make_example(spec: TaskSpec, row: dict, where: str) -> Example:
    """An example from a row with the template's fields and `label`.

    Args:
        spec: the task.
        row: field name -> value.
        where: what the row is called in an error, such as its file and line.

    Raises:
        TaskError: a field is missing, is no text or is empty, or the label is not the number of an answer; 1.0 and "1"
            are 1, as tables are often written.
    """
    for field in (*spec.fields, "label"):
        if field not in row:
            raise TaskError(
                f"{where} has no field {field!r}; task {spec.name} needs {', '.join(spec.fields)} and label"
            )
    for field in spec.fields:
        if not _is_text(row[field]):
            raise TaskError(f"{where} has {row[field]!r:.80} as {field!r}, where task {spec.name} needs some text")
    label, classes = str(row["label"]), len(spec.answers)
    numbers = {written: i for i in range(classes) for written in (str(i), f"{i}.0")}
    if label not in numbers:
        raise TaskError(f"{where} has label {row['label']!r:.80}; task {spec.name} has labels 0 to {classes - 1}")
    return Example(spec.template.format(**{field: row[field] for field in spec.fields}), numbers[label])


def _is_text(value: object) -> bool:
    """Whether it is a text, not empty, without half a character, which JSON can escape and no tokenizer takes."""
    try:
        return isinstance(value, str) and bool(value.strip()) and bool(value.encode())
    except UnicodeEncodeError:
        return False


def _from_file(spec: TaskSpec, folder: Path, split: str) -> list[Example]:
    file = folder / spec.name / f"{split}.jsonl"
    if not file.is_file():
        raise TaskError(f"source {folder} has no {spec.name}/{split}.jsonl, which task {spec.name} needs")
    examples = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        line, where = line.removeprefix(codecs.BOM_UTF8), f"{file}, line {number},"
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise TaskError(f"{where} is not UTF-8 (at byte {error.start}), or not plain text at all") from error
        except (ValueError, RecursionError) as error:  # a number may have too many digits, brackets may lie too deep
            raise TaskError(f"{where} is not JSON ({getattr(error, 'msg', error)})") from error
        if not isinstance(row, dict):
            raise TaskError(f"{where} is not a JSON object")
        examples.append(make_example(spec, row, where))
    if not examples:
        raise TaskError(f"{file} is empty")
    return examples


def _from_hub(spec: TaskSpec) -> dict[str, list[Example]]:
    from datasets import load_dataset

    try:
        dataset = load_dataset(spec.hub_id, spec.hub_config, revision=spec.revision)
    except Exception as error:  # network, offline and not-found errors of several libraries
        raise TaskError(
            f"task {spec.name} could not be fetched from the Hub dataset {spec.hub_id} ({type(error).__name__}). "
            f"Without a network, put {spec.name}/train.jsonl and {spec.name}/{spec.evaluation_split}.jsonl in a folder "
            "and pass that folder as source"
        ) from error
    return {
        split: [make_example(spec, row, f"{spec.hub_id}, {split}, row {i}") for i, row in enumerate(dataset[split])]
        for split in ("train", spec.evaluation_split)
    }


def _from_world(name: str) -> Task:
    from iclnb.language import miniatures

    miniature = miniatures.TASKS[name]
    spec = TaskSpec(name, miniature.template, tuple(miniature.answers))
    splits = {
        split: [make_example(spec, row, f"world, {name}, {split}, row {i}") for i, row in enumerate(rows)]
        for split, rows in ((split, miniatures.examples(name, split)) for split in ("train", "evaluation"))
    }
    return build_task(spec, "sample", splits["train"], splits["evaluation"])
