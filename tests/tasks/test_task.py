"""The six tasks: their data, their sources, and rows that do not fit."""

import gzip
import json

import datasets
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iclnb.tasks.task import SPECS, TASKS, Example, TaskError, load_task, shuffled


def write(folder, task, split, rows):
    (folder / task).mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / task / f"{split}.jsonl").write_bytes(("\n".join(lines) + "\n").encode())


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "sst2", "train", [{"sentence": f"film {i} {{x}}", "label": i % 2} for i in range(5)])
    write(tmp_path, "sst2", "validation", [{"sentence": f"scene {i}", "label": 0} for i in range(3)])
    return tmp_path


@pytest.mark.parametrize("n, seed", [(1, 0), (10, 1), (250, 3), (67349, 2)])
def test_shuffled_is_the_order_of_the_datasets_library(n, seed):
    dataset = datasets.Dataset.from_dict({"i": range(n)}).shuffle(seed=seed)
    assert list(shuffled(n, seed)) == dataset["i"][:]


def test_demonstrations_and_queries_come_in_the_papers_order(folder):
    task = load_task("sst2", folder)
    train = datasets.load_dataset("json", data_files=str(folder / "sst2/train.jsonl"), split="train").shuffle(seed=7)
    assert [d.text for d in task.demonstrations(3, seed=7)] == [f"Sentence: {s} Label:" for s in train["sentence"][:3]]
    queries = datasets.load_dataset("json", data_files=str(folder / "sst2/validation.jsonl"), split="train")
    expected = [f"Sentence: {s} Label:" for s in queries.shuffle(seed=1)["sentence"]]
    assert [example.text for example in task.evaluation] == expected


def test_the_evaluation_split_is_cut_at_2000(tmp_path):
    write(tmp_path, "subj", "train", [{"text": "a", "label": 0}])
    write(tmp_path, "subj", "test", [{"text": f"row {i}", "label": 1} for i in range(2100)])
    assert len(load_task("subj", tmp_path).evaluation) == 2000


GOOD = {"sentence": "fine", "label": 1}


@pytest.mark.parametrize(
    "row, message",
    [
        ({"text": "a", "label": 0}, "line 2, has no field 'sentence'; task sst2 needs sentence and label"),
        ({"sentence": "a"}, "line 2, has no field 'label'"),
        ({"sentence": "a", "label": 2}, "line 2, has label 2; task sst2 has labels 0 to 1"),
        ({"sentence": "a", "label": -1}, "has label -1"),
        ({"sentence": "a", "label": "x"}, "has label 'x'"),
        ({"sentence": "a", "label": "1.5"}, "has label '1.5'"),
        ({"sentence": "a", "label": 1.5}, "has label 1.5"),
        ({"sentence": "a", "label": 1e300}, "has label 1e[+]300"),
        ({"sentence": "a", "label": float("nan")}, "has label nan"),
        ({"sentence": "a", "label": None}, "has label None"),
        ({"sentence": "a", "label": [1]}, r"has label \[1\]"),
        ({"sentence": "a", "label": True}, "has label True"),
        ({"sentence": "a \ud800 b", "label": 1}, r"has 'a \\ud800 b' as 'sentence'"),
        ("[" * 100_000, "line 2, is not JSON"),
        ('{"sentence": "a", "label": ' + "9" * 5000 + "}", "line 2, is not JSON"),
        ('{"sentence": "a\0", "label": 1}', "line 2, is not JSON"),
        ({"sentence": " ", "label": 0}, "has ' ' as 'sentence', where task sst2 needs some text"),
        ({"sentence": 3, "label": 0}, "has 3 as 'sentence'"),
        ("{broken", "line 2, is not JSON"),
        ("[1]", "line 2, is not a JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(row, message, folder):
    write(folder, "sst2", "train", [GOOD, row])
    with pytest.raises(TaskError, match=message) as error:
        load_task("sst2", folder)
    assert "train.jsonl" in str(error.value)


@pytest.mark.parametrize("label", [1, 1.0, "1", "1.0"])
def test_a_label_is_a_whole_number_however_it_is_written(label, folder):
    write(folder, "sst2", "train", [{"sentence": "a", "label": label}])
    assert load_task("sst2", folder).train == (Example("Sentence: a Label:", 1),)
    assert type(load_task("sst2", folder).train[0].label) is int


def test_a_table_of_pandas_is_read(folder):
    frame = pd.DataFrame({"sentence": ["a", "b", "\u96ea"], "label": [0, None, 1]}).dropna()  # a float column by now
    frame.to_json(folder / "sst2" / "train.jsonl", orient="records", lines=True)
    assert [e.label for e in load_task("sst2", folder).train] == [0, 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: content.replace(b"\n", b"\r"),
        lambda content: b"\n  \n" + content.replace(b"\n", b"\n\n") + b"\n\t\n",
        lambda content: content.rstrip(),
        lambda content: b"".join(b"\xef\xbb\xbf" + line for line in content.splitlines(True)),  # files, joined
    ],
)
def test_what_editors_and_windows_write_is_read(change, folder):
    file = folder / "sst2" / "train.jsonl"
    write(folder, "sst2", "train", [{"sentence": "caf\u00e9 \u2028 \u0085 \u96ea", "label": 1}, GOOD])
    expected = load_task("sst2", folder).train
    file.write_bytes(change(file.read_bytes()))
    assert load_task("sst2", folder).train == expected


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.encode("latin-1"), r"line 2, is not UTF-8 \(at byte 17\), or not plain text"),
        (lambda text: text.encode("utf-16"), "line 1, is not UTF-8"),
        (lambda text: text.encode("utf-16-le"), "line 1, is not JSON"),
        (lambda text: gzip.compress(text.encode()), "line 1, is not UTF-8"),
        (lambda text: text.encode()[:-9], "line 2, is not JSON"),
        (lambda text: b"\0" * 9, "line 1, is not JSON"),
    ],
)
def test_a_file_that_is_no_utf8_is_named_by_file_and_line(change, message, folder):
    text = '{"sentence": "a", "label": 1}\n{"sentence": "caf\u00e9", "label": 1}\n'
    (folder / "sst2" / "train.jsonl").write_bytes(change(text))
    with pytest.raises(TaskError, match=message) as error:
        load_task("sst2", folder)
    assert "train.jsonl" in str(error.value) and "\n" not in str(error.value)


ROW = st.dictionaries(
    st.sampled_from(["sentence", "label", "x"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
).map(lambda row: json.dumps(row).encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary() | st.lists(st.binary(max_size=20) | ROW | st.just(json.dumps(GOOD).encode())).map(b"\n".join))
def test_any_bytes_are_examples_or_a_task_error(folder, content):
    (folder / "sst2" / "train.jsonl").write_bytes(content)
    try:
        train = load_task("sst2", folder).train
    except TaskError as error:
        assert "train.jsonl" in str(error) and len(str(error)) < 600
        return
    rows = [json.loads(line) for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    assert [e.text for e in train] == [f"Sentence: {row['sentence']} Label:" for row in rows]
    assert [e.label for e in train] == [float(row["label"]) for row in rows]
    for example in train:
        assert example.text.encode() and type(example.label) is int


def test_a_missing_or_empty_split_is_named(folder):
    (folder / "sst2" / "validation.jsonl").write_text("")
    with pytest.raises(TaskError, match="validation.jsonl is empty"):
        load_task("sst2", folder)
    (folder / "sst2" / "validation.jsonl").unlink()
    with pytest.raises(TaskError, match="has no sst2/validation.jsonl"):
        load_task("sst2", folder)


def test_unknown_tasks_and_sources_are_refused(tmp_path):
    with pytest.raises(TaskError, match="task is 'rte'; known are sst2, sst5, mr, subj, agnews, cb"):
        load_task("rte", tmp_path)
    with pytest.raises(TaskError, match="source is 'smaple'.*'sample', 'hub' or a folder"):
        load_task("sst2", "smaple")


def test_k_beyond_the_train_split_is_refused(folder):
    task = load_task("sst2", folder)
    for k in (6, -1):
        with pytest.raises(TaskError, match=f"k is {k}; task sst2 has 5 training examples"):
            task.demonstrations(k, seed=1)


def test_auto_is_the_environments_folder_else_what_suits_the_model(folder, monkeypatch):
    monkeypatch.setenv("ICLNB_DATA", str(folder))
    assert len(load_task("sst2").train) == 5
    monkeypatch.delenv("ICLNB_DATA")
    monkeypatch.delenv("ICLNB_MODEL", raising=False)
    assert load_task("sst2").source == "sample"
    monkeypatch.setenv("ICLNB_MODEL", "gpt2")
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: pytest.fail("asked the Hub", pytrace=False))
    with pytest.raises(pytest.fail.Exception, match="asked the Hub"):
        load_task("sst2")


def test_hub_datasets_are_asked_for_at_a_pinned_revision_without_scripts(folder, monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        files = {split: str(folder / "sst2" / f"{split}.jsonl") for split in ("train", "validation")}
        return real("json", data_files=files)

    real = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = load_task("sst2", "hub")
    assert asked == [(("nyu-mll/glue", "sst2"), {"revision": SPECS["sst2"].revision})]
    assert task.evaluation == load_task("sst2", folder).evaluation


def test_every_hub_dataset_is_pinned_to_a_commit():
    for spec in SPECS.values():
        assert len(spec.revision) == 40 and int(spec.revision, 16), spec.name
        assert spec.hub_id.count("/") == 1


def test_without_a_network_the_error_says_where_to_put_which_files(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(TaskError, match="cb/train.jsonl and cb/validation.jsonl in a folder"):
        load_task("cb", "hub")


def test_the_real_tasks_have_the_papers_sizes(iclnb_data):
    sizes = {name: (len(task.train), len(task.evaluation)) for name in TASKS for task in [load_task(name, iclnb_data)]}
    expected_evaluation = {"sst2": 872, "sst5": 1101, "mr": 1066, "subj": 2000, "agnews": 2000, "cb": 56}
    assert {name: n for name, (_, n) in sizes.items()} == expected_evaluation
    assert (sizes["sst2"][0], sizes["cb"][0]) == (67349, 250)


@pytest.mark.parametrize("name", TASKS)
def test_the_miniature_tasks_mirror_the_real_ones(name):
    task = load_task(name, "sample")
    assert len(task.answers) == len(SPECS[name].answers)
    assert {example.label for example in task.evaluation} == set(range(len(task.answers)))
    assert not {e.text for e in task.train} & {e.text for e in task.evaluation}
