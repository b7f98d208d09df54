"""The paper's choice of seed and rate, from tables and from runs, and the gate before a comparison with FT."""

import json

import pytest
import torch
from toys import save_checkpoint, toy_task

import iclnb
from iclnb.experiment import grid, selection
from iclnb.experiment.descent import DivergedError
from iclnb.experiment.results import Results

NAN = float("nan")
ICL = torch.tensor([0.7, 0.9, 0.9])  # (S,)
FT = torch.tensor([[0.5, 0.99, 0.4], [0.6, 0.8, 0.8], [0.9, NAN, 0.1]])  # (S, R)


def test_the_seed_is_icls_choice_and_the_rate_fts_at_this_seed():
    assert selection.paper_choice(ICL, FT) == (1, 1)  # of equals the first seed and the smallest rate
    assert selection.paper_choice(torch.tensor([0.9, 0.7, 0.7]), FT) == (0, 1)
    assert selection.paper_choice(torch.tensor([0.7, 0.7, 0.9]), FT) == (2, 0)  # a rate that diverged is no choice
    assert selection.best_of_all(FT) == (0, 1)  # ICL likes this seed least


def test_a_seed_at_which_all_rates_diverge_is_said():
    with pytest.raises(DivergedError, match="diverged at every learning rate"):
        selection.paper_choice(torch.tensor([1.0, 0.0]), torch.tensor([[NAN, NAN], [0.5, 0.5]]))
    with pytest.raises(DivergedError):
        selection.best_of_all(torch.full((2, 3), NAN))


@pytest.mark.parametrize("gained, lost, expected", [(30, 5, True), (6, 0, True), (5, 0, False), (5, 30, False)])
def test_fine_tuning_has_learnt_where_the_paired_test_says_so(gained, lost, expected):
    zsl = torch.tensor([0] * gained + [1] * lost + [1] * 40 + [0] * 40)  # (n,)
    ft = torch.tensor([1] * gained + [0] * lost + [1] * 40 + [0] * 40)  # (n,)
    assert selection.learnt(ft, zsl) is expected


def test_the_edges_of_a_grid_are_its_smallest_and_largest_rate():
    rates = (0.1, 0.001, 0.01)
    assert [selection.at_edge(rate, rates) for rate in rates] == [True, True, False]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a checkpoint and a task of 30 training examples."""
    folder, task = tmp_path_factory.mktemp("selection"), toy_task(30, 9)
    save_checkpoint(folder / "model")
    (folder / "data" / "sst2").mkdir(parents=True)
    for split, examples in (("train", task.train), ("validation", task.evaluation)):
        texts = (example.text.removeprefix("Sentence: ").removesuffix(" Label:") for example in examples)
        rows = [json.dumps({"sentence": text, "label": e.label}) for text, e in zip(texts, examples, strict=True)]
        (folder / "data" / "sst2" / f"{split}.jsonl").write_text("\n".join(rows))
    yield folder
    grid._held.clear()


def wanted(place, **options):
    same = {"source": str(place / "data"), "held_out": 5}
    return selection.candidates(str(place / "model"), "sst2", 4, (1, 2), (0.05, 1e30), **same | options)


def test_answers_equal_the_same_calls_by_hand(place, tmp_path):
    model, tokenizer = iclnb.load(place / "model", device="cpu", dtype="float32")
    task = iclnb.load_task("sst2", place / "data")
    found = selection.answers(wanted(place), Results(tmp_path))
    splits = {"evaluation": task, "held-out": selection.held_apart(task, 4, (1, 2), 5)}
    for split, asked in splits.items():
        zsl, icl, ft = found[split]
        student = iclnb.finetune_attention(model, tokenizer, task, 4, 2, 0.05)
        assert zsl.tolist() == iclnb.zero_shot(model, tokenizer, asked).correct.tolist()
        assert icl[1].tolist() == iclnb.few_shot(model, tokenizer, asked, 4, 2).correct.tolist()
        assert ft[1, 0].tolist() == iclnb.zero_shot(student, tokenizer, asked).correct.tolist()
        assert ft.shape == (2, 2, len(asked.evaluation)) and ft[:, 1].isnan().all()  # 1e30 diverges
        assert selection.paper_choice(icl.mean(-1), ft.mean(-1))[1] == 0


def test_without_held_out_examples_there_is_one_split(place, tmp_path):
    assert list(selection.answers(wanted(place, held_out=0), Results(tmp_path))) == ["evaluation"]


def test_held_out_examples_are_demonstrations_of_no_seed(place):
    task = iclnb.load_task("sst2", place / "data")
    apart = selection.held_apart(task, 4, (1, 2, 3), 100)
    shown = {example for seed in (1, 2, 3) for example in task.demonstrations(4, seed)}
    assert not shown & set(apart.evaluation) and set(apart.evaluation) | shown == set(task.train)
    assert len(selection.held_apart(task, 4, (1, 2, 3), 7).evaluation) == 7
    with pytest.raises(ValueError, match=r"seeds \[1\] with k = 30 demonstrate all 30 training examples of sst2"):
        selection.held_apart(task, 30, (1,), 5)
