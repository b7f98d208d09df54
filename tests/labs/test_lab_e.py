"""Lab e: the Bayes predictor against brute force, GINC against the released text, prompts, and what was stored."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from toys import script

from iclnb.labs import ginc as lab
from iclnb.labs import hmm
from iclnb.model.checkpoints import load_model
from iclnb.paths import data_folder

FOLDER = data_folder() / "labs" / "e"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_mixture(C=2, K=3, V=4, seed=0):
    """Random HMMs with a few zeros in them."""
    draw = np.random.default_rng(seed)
    prior, start, transition = draw.random(C), draw.random((C, K)), draw.random((C, K, K))
    emission = draw.random((K, V))
    transition[0, 0, 1] = emission[0, 2] = emission[1, 2] = 0
    parts = (torch.from_numpy(p / p.sum(-1, keepdims=True)) for p in (prior, start, transition, emission))
    return hmm.Mixture(*parts)


def probability(mixture, tokens):
    """p(tokens, concept), (C,): every path of states written out."""
    C, K = mixture.start.shape
    start, A, B = mixture.start.numpy(), mixture.transition.numpy(), mixture.emission.numpy()
    found = np.zeros(C)
    for c in range(C):
        for path in itertools.product(range(K), repeat=len(tokens)):
            p = mixture.prior[c].item() * start[c, path[0]]
            for t, (state, token) in enumerate(zip(path, tokens, strict=True)):
                p *= B[state, token] * (A[c, path[t - 1], state] if t else 1)
            found[c] += p
    return found


# ------------------------------------------------------------------------------------------------- the Bayes predictor


@pytest.mark.parametrize("tokens", [[1], [3, 0], [0, 1, 3, 3, 1, 0], [2, 2, 2, 1]])
def test_the_forward_algorithm_is_the_sum_over_all_paths(tokens):
    mixture = small_mixture()
    beliefs = hmm.predict(mixture, torch.tensor([tokens]))
    for t in range(len(tokens)):
        so_far = probability(mixture, tokens[: t + 1])
        np.testing.assert_allclose(beliefs.concept[0, t], so_far / so_far.sum(), atol=1e-12)
        ahead = [probability(mixture, [*tokens[: t + 1], v]).sum() / so_far.sum() for v in range(4)]
        np.testing.assert_allclose(beliefs.next_token[0, t], ahead, atol=1e-12)
    assert beliefs.log_prob.item() == pytest.approx(np.log(so_far.sum()), abs=1e-12)
    by_enumeration = hmm.predict_by_enumeration(mixture, torch.tensor(tokens))
    torch.testing.assert_close(by_enumeration, beliefs.next_token[0, -1], atol=1e-10, rtol=0)


def test_documents_do_not_see_each_other_and_probabilities_of_all_documents_sum_to_one():
    mixture = small_mixture()
    every = torch.tensor(list(itertools.product(range(4), repeat=4)))  # (256, 4)
    beliefs = hmm.predict(mixture, every)
    assert beliefs.log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(hmm.predict(mixture, every[37:38]).next_token, beliefs.next_token[37:38])


def test_no_document_is_too_long_for_the_scaled_algorithm():
    tokens, _ = hmm.sample(small_mixture(), 2, 3000, generator())
    beliefs = hmm.predict(small_mixture(), tokens)
    assert beliefs.log_prob.isfinite().all() and (beliefs.log_prob < -1000).all()
    torch.testing.assert_close(beliefs.next_token.sum(-1), torch.ones(2, 3000, dtype=torch.float64))


def test_an_impossible_document_has_probability_zero_and_smoothing_ends_that():
    mixture = small_mixture()
    mixture = replace(mixture, emission=torch.eye(3, 4, dtype=torch.float64))  # token 3 is never shown
    tokens = torch.tensor([[0, 3, 0], [0, 2, 1]])
    beliefs = hmm.predict(mixture, tokens)
    assert beliefs.log_prob[0] == -torch.inf and beliefs.log_prob[1].isfinite()
    assert beliefs.next_token[0, 1:].isnan().all() and beliefs.next_token[0, 0].isfinite().all()
    never = torch.tensor([[0, 1]])  # state 1 never follows state 0 in concept 0
    one = hmm.Mixture(torch.ones(1).double(), mixture.start[:1], mixture.transition[:1], mixture.emission)
    assert hmm.predict(one, never).log_prob == -torch.inf
    assert hmm.predict(one.smoothed(1e-6), never).log_prob.isfinite()


def test_samples_follow_the_mixture():
    mixture = small_mixture()
    tokens, concept = hmm.sample(mixture, 40_000, 3, generator())
    share = torch.bincount(concept, minlength=2) / 40_000
    assert (share - mixture.prior).abs().max() < 0.01
    every = torch.tensor(list(itertools.product(range(4), repeat=3)))  # (64, 3)
    expected = hmm.predict(mixture, every).log_prob.exp()  # (64,)
    counted = torch.bincount(tokens @ torch.tensor([16, 4, 1]), minlength=64) / 40_000
    assert (counted - expected).abs().max() < 0.01 and counted[expected == 0].sum() == 0


@pytest.mark.parametrize(
    "call, complaint",
    [
        (lambda: replace(small_mixture(), prior=torch.tensor([0.5, 0.6]).double()), "prior is not stochastic"),
        (lambda: replace(small_mixture(), transition=small_mixture().transition * 2), "transition is not stochastic"),
        (lambda: replace(small_mixture(), start=small_mixture().start - 0.5), "start is not stochastic"),
        (lambda: replace(small_mixture(), start=torch.ones(3, 3) / 3), r"start has shape \(3, 3\)"),
        (lambda: small_mixture().smoothed(1.5), "epsilon is 1.5"),
        (lambda: hmm.sample(small_mixture(), 0, 5, generator()), "B is 0"),
        (lambda: hmm.sample(small_mixture(), 5, 0, generator()), "T is 0"),
        (lambda: hmm.predict(small_mixture(), torch.tensor([[0, 4]])), "from 0 to 3"),
        (lambda: hmm.predict(small_mixture(), torch.zeros(2, 0, dtype=torch.long)), "at least one"),
        (lambda: lab.ginc(0), "concepts is 0"),
        (lambda: lab.prompts(lab.ginc(), 0, 1, 3, generator()), "B is 0"),
        (lambda: lab.prompts(lab.ginc(), 2, -1, 3, generator()), "examples is -1"),
        (lambda: lab.prompts(lab.ginc(), 2, 1, 1, generator()), "k is 1"),
        (lambda: lab.pretraining_mixture("nothing"), "kind is 'nothing'"),
    ],
)
def test_bad_input_is_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


# ----------------------------------------------------------------------------------------------------------------- GINC


@pytest.fixture(scope="module")
def world():
    return lab.ginc()


def test_states_are_pairs_whose_parts_move_independently(world):
    mixture = world.mixture()
    v, s, w, r = 3, 7, 4, 2
    expected = world.entity[v, w] * world.property[1, s, r]
    assert mixture.transition[1, 10 * v + s, 10 * w + r].item() == pytest.approx(expected.item())
    assert mixture.emission[10 * v + s].argmax() == world.memory[v, s]
    assert (world.memory[:, 0] == lab.DELIMITER).all() and (world.memory[:, 1:] != lab.DELIMITER).all()


@pytest.fixture
def released(iclnb_data):
    """The validation text of the released GINC, (100, 1024) int64."""
    file = iclnb_data / "ginc" / "val.txt"
    if not file.is_file():
        pytest.skip("the folder ICLNB_DATA holds no ginc/val.txt")
    number = {word: i for i, word in enumerate(lab.WORDS)}
    ids = torch.tensor([number[word] for word in file.read_text().split()])
    return ids.view(100, 1025)[:, :-1]  # each document is followed by one delimiter more


def test_the_released_text_is_of_these_concepts_and_no_others(released):
    """Each document has probability zero, but for one of the first five of ten concepts."""
    ten = lab.ginc(concepts=10).mixture()
    alone = [hmm.predict(ten.alone(concept), released).log_prob for concept in range(10)]  # (100,) each
    possible = torch.stack(alone, 1).isfinite()  # (100, 10)
    assert (possible.sum(1) == 1).all()
    assert (possible.sum(0)[:5] > 5).all() and possible[:, 5:].sum() == 0


def test_our_documents_have_the_statistics_of_the_released_ones(released, world):
    mixture = world.mixture()
    ours, _ = hmm.sample(mixture, 100, 1024, generator())
    bits = [hmm.predict(mixture, tokens).log_prob / 1024 for tokens in (released, ours)]  # (100,) each, nats a token
    error = (bits[0].var() / 100 + bits[1].var() / 100).sqrt()
    assert (bits[0].mean() - bits[1].mean()).abs() < 3 * error
    assert set(released.unique().tolist()) == set(world.memory.unique().tolist())
    for n, allowed in ((1, 0.06), (2, 0.12)):  # unigrams, bigrams: half the summed difference of frequencies
        counts = [Counter(map(tuple, tokens.unfold(1, n, 1).flatten(0, 1).tolist())) for tokens in (released, ours)]
        total = [sum(c.values()) for c in counts]
        differences = (abs(counts[0][x] / total[0] - counts[1][x] / total[1]) for x in counts[0] | counts[1])
        assert sum(differences) / 2 < allowed
    delimiters = [(tokens == lab.DELIMITER).double().mean(1) for tokens in (released, ours)]  # (100,) each
    error = (delimiters[0].var() / 100 + delimiters[1].var() / 100).sqrt()
    assert (delimiters[0].mean() - delimiters[1].mean()).abs() < 3 * error


def stored_pairs():
    return torch.from_numpy(pd.read_csv(FOLDER / "released.csv", index_col="first").to_numpy())  # (50, 50)


def test_the_stored_counts_are_of_the_released_text(released):
    expected = Counter(zip(released[:, :-1].flatten().tolist(), released[:, 1:].flatten().tolist(), strict=True))
    assert {tuple(pair): stored_pairs()[tuple(pair)].item() for pair in stored_pairs().nonzero().tolist()} == expected


def test_pairs_of_tokens_tell_these_concepts_from_others(world):
    def likeness(change):
        tokens, _ = hmm.sample(change.mixture(), 60, 400, generator())
        pairs = torch.bincount((50 * tokens[:, :-1] + tokens[:, 1:]).flatten(), minlength=2500)
        return torch.corrcoef(torch.stack([pairs, stored_pairs().flatten()]).double())[0, 1].item()

    assert likeness(world) > 0.95
    others = replace(world, property=lab.ginc(seed=2222).property)
    assert max(likeness(change) for change in (others, lab.one_concept(world), lab.random_transitions(world))) < 0.8


# -------------------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize("k", [2, 5])
def test_prompts_are_examples_of_one_concept_and_one_first_property(world, k):
    asked = lab.prompts(world, 30, 6, k, generator())
    rows = asked.tokens.view(30, 7, k + 1)
    assert (rows[..., -1] == lab.DELIMITER).all()
    firsts = [{s for s in range(1, 10) if set(row[:, 0].tolist()) <= set(world.memory[:, s].tolist())} for row in rows]
    assert all(firsts), "the first tokens of all examples of a prompt stand in one column of the memory"
    assert torch.equal(asked.tokens[:, asked.asked + 1], rows[..., k - 1])


def test_the_answer_is_what_the_hmm_of_the_concept_says(world):
    """By the dense forward algorithm over all 100 states, started at the prompt's property."""
    k, mixture = 4, world.mixture()
    asked = lab.prompts(world, 12, 3, k, generator(3))
    rows = asked.tokens.view(12, 4, k + 1)
    for b in range(12):
        candidates = [s for s in range(1, 10) if set(rows[b, :, 0].tolist()) <= set(world.memory[:, s].tolist())]
        start = torch.zeros(len(candidates), 10, 10, dtype=torch.float64)
        for i, s in enumerate(candidates):
            start[i, :, s] = 0.1
        A = mixture.transition[asked.concept[b]].expand(len(candidates), -1, -1)
        each = hmm.Mixture(
            torch.full((len(candidates),), 1 / len(candidates)).double(), start.flatten(1), A, mixture.emission
        )
        if len(candidates) == 1:
            expected = hmm.predict(each, rows[b, :, : k - 1]).next_token[:, -1]
            torch.testing.assert_close(asked.answer[b], expected)
    assert (asked.answer.gather(-1, rows[..., k - 1 : k]) > 0).all(), "the token that was drawn is possible"


def test_the_prompt_aware_predictor_is_bayes_rule_over_concepts_and_first_properties(world):
    """By the dense forward algorithm over all 100 states, example by example, and Bayes' rule in plain numbers."""
    k, C, mixture = 3, 5, world.mixture()
    asked = lab.prompts(world, 6, 2, k, generator(4))
    evidence, answers = np.zeros((6, 3, C, 9)), np.zeros((6, 3, C, 9, 50))  # p(example), p(last token | those before)
    started = np.zeros((6, 3, C, 9))  # p(example without its last token)
    for c, first, m in itertools.product(range(C), range(1, 10), range(3)):
        start = torch.zeros(1, 10, 10, dtype=torch.float64)
        start[0, :, first] = 0.1
        one = replace(mixture.alone(c), start=start.flatten(1))
        whole, query = (hmm.predict(one, asked.examples[:, m, :length]) for length in (k, k - 1))
        evidence[:, m, c, first - 1], started[:, m, c, first - 1] = whole.log_prob.exp(), query.log_prob.exp()
        answers[:, m, c, first - 1] = query.next_token[:, -1].nan_to_num()
    for n in range(3):
        weight = evidence[:, :n].prod(1) * started[:, n]  # (6, C, 9)
        expected = (weight[..., None] * answers[:, n]).sum((1, 2)) / weight.sum((1, 2))[:, None]
        np.testing.assert_allclose(lab.prompt_aware_predictions(world, asked)[:, n], expected, atol=1e-12)


def test_a_query_can_be_asked_after_other_demonstrations(world):
    asked = lab.prompts(world, 20, 6, 4, generator(5))
    own = asked.examples[:, :-1]  # (20, 6, 4)
    again = asked.with_demonstrations(own)
    assert torch.equal(again.tokens, asked.tokens) and torch.equal(again.answer, asked.answer[:, -1:])
    reader = world.mixture().smoothed(0.01)
    torch.testing.assert_close(lab.bayes_predictions(reader, again), lab.bayes_predictions(reader, asked)[:, -1:])
    aware = lab.prompt_aware_predictions(world, asked)[:, -1:]
    shuffled = asked.with_demonstrations(own[:, torch.randperm(6, generator=generator())])
    torch.testing.assert_close(lab.prompt_aware_predictions(world, shuffled), aware)  # order does not count
    alone = asked.with_demonstrations(own[:, :0])
    assert torch.equal(alone.tokens, asked.tokens[:, -5:]) and alone.asked.tolist() == [2]


def test_accuracy_of_the_answer_itself_is_one_and_of_the_ablations_low(world):
    asked = lab.prompts(world, 300, 8, 3, generator())
    assert lab.correct(asked.answer, asked).all()
    full = lab.bayes_predictions(world.mixture().smoothed(1e-3), asked)
    accuracy = lab.correct(full, asked).double().mean(0)  # (9,)
    assert accuracy[4:].mean() > accuracy[0] + 0.08, "the Bayes predictor learns in context"
    aware = lab.correct(lab.prompt_aware_predictions(world, asked), asked).double().mean(0)  # (9,)
    assert aware[2:].min() > 0.95 > accuracy.max() + 0.1, "and more so if it knows how prompts are made"
    for ablated in (lab.one_concept(world), lab.random_transitions(world)):
        accuracy = lab.correct(lab.bayes_predictions(ablated.mixture().smoothed(1e-3), asked), asked).double().mean(0)
        assert accuracy[4:].mean() < accuracy[0] + 0.03 and accuracy.max() < 0.45, "and the ablations do not"


# ------------------------------------------------------------------------------------------------- the stored training


def test_the_stored_model_is_the_one_of_the_record():
    model = load_model(FOLDER, torch.device("cpu"), torch.float32)
    record = pd.read_csv(FOLDER / "mixture.csv").iloc[-1]
    found = lab.Measurement(lab.pretraining_mixture("mixture"), seed=0)(model)
    assert found["held_out"] == pytest.approx(record["held_out"], abs=0.01)  # weights are stored in 16 bits
    assert found["bayes"] == pytest.approx(record["bayes"], abs=1e-4)
    assert found["icl_16"] == pytest.approx(record["icl_16"], abs=0.03)


def test_no_training_beats_the_bayes_predictor():
    for kind in lab.PRETRAINING:
        record = pd.read_csv(FOLDER / f"{kind.replace(' ', '_')}.csv")
        assert (record["held_out"] > record["bayes"] - 0.01).all()
        assert record["step"].iloc[-1] == lab.PRETRAINING[kind]


def test_the_command_stores_what_the_notebook_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "PRETRAINING", dict.fromkeys(lab.PRETRAINING, 1))
    monkeypatch.setattr(lab, "LENGTH", 8)
    monkeypatch.setattr(lab, "SHAPE", lab.SHAPE | {"n_layer": 1, "n_head": 1, "n_embd": 8})
    monkeypatch.setattr(lab.icl_answers, "__defaults__", (2,))
    script("labs").main(["e", "--out", str(tmp_path / "e")])
    stored, ours = {file.name for file in (tmp_path / "e").iterdir()}, {file.name for file in FOLDER.iterdir()}
    assert stored == ours - {"README.md", "released.csv", "published.csv"}
    assert list(tmp_path.iterdir()) == [tmp_path / "e"], "no checkpoint is left"


def test_records_of_learning_in_context_are_means_over_prompts():
    right = torch.zeros(4, 33, dtype=torch.bool)
    right[:2, 8:] = right[2, 0] = True
    curve, gain = lab.icl_records("mixture", 5, right, torch.tensor([0, 1, 2, 0]))
    assert [row["n"] for row in curve] == [0, 1, 2, 4, 8, 16, 32]
    assert curve[0] == {"pretraining": "mixture", "k": 5, "n": 0, "accuracy": 0.25, "of_concept_0": 0, "of_others": 0.5}
    assert curve[-1]["accuracy"] == curve[-1]["of_concept_0"] == curve[-1]["of_others"] == 0.5
    assert gain["mean"] == pytest.approx((1 + 1 - 1 + 0) / 4) and gain["low"] < gain["mean"] < gain["high"]


def test_records_are_small():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 1_000_000
