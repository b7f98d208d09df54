"""Lab d: the scores of heads against independent computation, the induction circuit by hand, ablation, the records."""

import copy

import pandas as pd
import pytest
import torch
from toys import script
from transformers import AutoModelForCausalLM

from iclnb import load
from iclnb.labs import induction
from iclnb.model.gpt import GPT, GPTConfig
from iclnb.model.heads import ablated, attention_patterns, head_means
from iclnb.paths import data_folder

FOLDER = data_folder() / "labs" / "d"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def blocks_without_doubles(V=8, repeats=4, B=50):
    """Each sequence is a permutation of all V tokens, again and again."""
    g = generator()
    return torch.stack([torch.randperm(V, generator=g).repeat(repeats) for _ in range(B)])


# ------------------------------------------------------------------------------------------------------ built by hand


@pytest.fixture
def hand():
    return induction.by_hand(8)


def test_the_hand_built_model_scores_as_an_induction_circuit_must(hand):
    patterns = attention_patterns(hand, blocks_without_doubles())
    assert induction.previous_token(patterns)[0, 0] > 0.999
    # Position 0 has no predecessor and takes itself for one, so of the r + 1 positions that match the first token of
    # the block in its repetition r, one is wrong.
    expected = (21 + 1 / 2 + 2 / 3 + 3 / 4) / 24
    assert induction.prefix_matching(patterns, 8)[1, 0].item() == pytest.approx(expected, abs=1e-3)
    assert induction.prefix_matching(patterns, 8)[0, 0] < 1e-3


def test_the_hand_built_model_continues_what_it_has_seen(hand):
    ids = blocks_without_doubles()
    losses = induction.loss_by_position(hand, ids)
    assert losses[9:].max() < 1e-2  # the token after the first copy's is known, from the second token of the block on
    assert induction.icl_score(losses, 2, 20) < -1


@pytest.mark.parametrize("head", [(0, 0), (1, 0)])
def test_without_either_half_of_the_circuit_nothing_is_learnt_in_context(hand, head):
    ids = blocks_without_doubles()
    with ablated(hand, [head]):
        assert induction.loss_by_position(hand, ids)[9:].mean() > 1.5


# --------------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("L, T", [(5, 18), (2, 7), (6, 12)])
def test_prefix_matching_finds_the_tokens_after_earlier_copies(L, T):
    """By looking for copies in the tokens themselves, instead of counting positions."""
    patterns = torch.rand(2, 3, 4, T, T, dtype=torch.float64)
    tokens = [t % L for t in range(T)]
    expected = torch.zeros(2, 4, dtype=torch.float64)
    for t in range(L, T):
        for j in range(1, t):
            if tokens[j - 1] == tokens[t]:
                expected += patterns[:, :, :, t, j].mean(1) / (T - L)
    torch.testing.assert_close(induction.prefix_matching(patterns, L), expected)


def test_an_attention_pattern_is_what_transformers_gives(tmp_path):
    model, _ = load("pocket-gpt", device="cpu", dtype="float32")
    reference = AutoModelForCausalLM.from_pretrained(
        data_folder() / "pocket-gpt", attn_implementation="eager", dtype=torch.float32
    )
    ids = torch.randint(0, model.config.vocab_size, (2, 12), generator=generator())
    with torch.no_grad():
        expected = torch.stack(reference(ids, output_attentions=True).attentions)  # (L, B, H, T, T)
    torch.testing.assert_close(attention_patterns(model, ids), expected, rtol=1e-4, atol=1e-5)


def test_the_induction_head_copies_and_the_previous_token_head_does_not(hand):
    assert induction.copying(hand, 1).tolist() == [1]
    assert induction.copying(hand, 0) < 0.5  # it writes where the output projection does not read


def test_random_sets_are_different_and_all_where_there_are_few():
    heads = [(layer, head) for layer in range(3) for head in range(4)]
    sets = induction.random_sets(heads, 3, 40)
    assert len(set(sets)) == 40 and all(len(set(heads)) == 3 for heads in sets) and set().union(*sets) == set(heads)
    assert sets == induction.random_sets(heads, 3, 40) != induction.random_sets(heads, 3, 40, seed=1)
    assert len(induction.random_sets(heads[:5], 3, 20)) == 10


def test_smeared_keys_mix_each_key_with_the_one_before():
    model, x = induction.AttentionOnly(GPTConfig(8, 1, 2, 8), smeared=True), torch.randn(1, 5, 8, generator=generator())
    smeared = model.blocks[0].attn.k_proj
    with torch.no_grad():
        smeared.alpha[:, 0] = torch.tensor([torch.inf, 0.0])  # a is 1 and 1 / 2
    plain = smeared.projection(x)
    assert torch.equal(smeared(x)[..., :4], plain[..., :4]) and torch.equal(smeared(x)[:, 0], plain[:, 0])
    for t in range(1, 5):
        torch.testing.assert_close(smeared(x)[:, t, 4:], (plain[:, t, 4:] + plain[:, t - 1, 4:]) / 2)


def test_the_late_loss_does_not_look_at_early_positions():
    losses = torch.arange(1.0, 65)  # the loss at each position is the position
    losses[:40] = 1000
    assert induction.late_loss(losses) == 50


def test_the_icl_score_is_negative_where_context_helps():
    assert induction.icl_score(torch.tensor([4.0, 3.0, 1.0, 0.5]), 1, 4) == -3.5


def test_a_head_is_ablated_inside_the_block_and_whole_after_it():
    config = GPTConfig(30, 2, 4, 16, positions="rotary")
    model, ids = GPT(config).initialise(0).eval(), torch.randint(0, 30, (2, 9), generator=generator())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator(1)))
        without = copy.deepcopy(model)
        for layer, head in ((0, 1), (1, 0), (1, 3)):  # a head that is not projected out says nothing
            without.blocks[layer].attn.out_proj.weight[:, 4 * head : 4 * head + 4] = 0
        whole = model(ids)
        with ablated(model, [(0, 1), (1, 0), (1, 3)]) as same:
            assert same is model
            torch.testing.assert_close(model(ids), without(ids))
            prefix = model.encode_prefix(ids[:1, :5])  # the shared-prefix path is ablated as well
            torch.testing.assert_close(model(ids[:1, 5:], prefix), without(ids[:1])[:, 5:], rtol=1e-4, atol=1e-5)
        assert torch.equal(model(ids), whole)
        with pytest.raises(KeyError), ablated(model, [(0, 0)]):
            raise KeyError
        assert torch.equal(model(ids), whole)


def test_a_head_set_to_its_mean_says_the_same_everywhere():
    model, g = GPT(GPTConfig(30, 2, 4, 16, positions="rotary")).initialise(0).double().eval(), generator()
    sequences = [torch.randint(0, 30, (T,), generator=g).tolist() for T in (5, 9)]  # of unlike length
    means = head_means(model, sequences)
    assert means.shape == (2, 4, 4)
    said, catch = [], lambda _, inputs: said.append(inputs[0][0])
    with ablated(model, [(1, 0), (1, 3)], means):
        handle = model.blocks[1].attn.out_proj.register_forward_pre_hook(catch)
        for ids in sequences:
            model(torch.tensor([ids]))
        handle.remove()
    heads = torch.cat(said).unflatten(-1, (4, 4))  # (14, H, D)
    assert torch.equal(heads[:, [0, 3]], means[1, [0, 3]].expand(14, 2, 4))
    torch.testing.assert_close(heads[:, [1, 2]].mean(0), means[1, [1, 2]])  # the others, and what a mean is


# ---------------------------------------------------------------------------------------------------------------- data


def test_blocks_repeat():
    ids = induction.repeated_blocks(4, 5, 17, generator(), low=10, high=20)
    assert ids.shape == (4, 17) and ids.min() >= 10 and ids.max() < 20
    assert torch.equal(ids[:, 5:], ids[:, :-5])
    assert not torch.equal(ids[0, :5], ids[1, :5])


@pytest.mark.parametrize(
    "call, complaint",
    [
        (lambda: induction.repeated_blocks(0, 4, 9, generator()), "B is 0"),
        (lambda: induction.repeated_blocks(2, 0, 9, generator()), "L is 0"),
        (lambda: induction.repeated_blocks(2, 9, 9, generator()), "T is 9"),
        (lambda: induction.repeated_blocks(2, 3, 9, generator(), 5, 5), "high is 5"),
        (lambda: induction.prefix_matching(torch.rand(1, 1, 1, 8, 8), 8), "L is 8"),
        (lambda: induction.icl_score(torch.rand(8), 5, 9), "late is 9"),
        (lambda: induction.icl_score(torch.rand(8), 5, 5), "early is 5"),
        (lambda: induction.by_hand(3), "V is 3"),
        (lambda: induction.grow(0), "n_layer is 0"),
        (lambda: induction.grow(steps=0), "steps is 0"),
        (lambda: induction.snapshot(FOLDER / "snapshots.safetensors", 7), "step is 7"),
        (lambda: ablated(induction.by_hand(), [(2, 0)]).__enter__(), "no head 0 in layer 2"),
        (lambda: ablated(induction.by_hand(), [(0, 1)]).__enter__(), "no head 1 in layer 0"),
    ],
)
def test_bad_input_is_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


# ------------------------------------------------------------------------------------------------------------- training


def test_training_repeats_itself_and_learns_what_one_layer_can():
    model, record, _ = induction.grow(1, steps=100, every=50, progress=False)
    again, same, _ = induction.grow(1, steps=100, every=50, progress=False)
    assert record == same and all(map(torch.equal, model.parameters(), again.parameters()))
    assert [row["step"] for row in record] == [0, 50, 100]
    assert record[-1]["loss"] < 4.0 < record[0]["loss"]  # log 64 is 4.16


def test_the_command_stores_what_the_notebook_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(induction, "STEPS", 4)
    monkeypatch.setattr(induction, "SNAPSHOTS", (2, 4))
    monkeypatch.setattr(induction.grow, "__defaults__", (2, 4, 0, 2, False))
    script("labs").main(["d", "--out", str(tmp_path)])
    stored, ours = {file.name for file in tmp_path.iterdir()}, {file.name for file in FOLDER.iterdir()}
    assert stored == ours - {"README.md"}
    for name in ("layers_2_seed_0.csv", "smeared_1_seed_1.csv"):
        record = pd.read_csv(tmp_path / name)
        assert len(record) == 3 and list(record.columns) == list(pd.read_csv(FOLDER / name).columns)
    assert (
        len(attention_patterns(induction.snapshot(tmp_path / "snapshots.safetensors", 4), torch.ones(1, 5, dtype=int)))
        == 2
    )


def test_the_stored_record_is_of_the_stored_weights():
    row = pd.read_csv(FOLDER / "layers_2_seed_0.csv").set_index("step").loc[600]  # in the middle of the change
    probe = induction.repeated_blocks(64, 16, 65, generator(-1))
    found = induction.measure(induction.snapshot(FOLDER / "snapshots.safetensors", 600), probe)
    for name, value in found.items():
        assert value == pytest.approx(row[name], abs=0.02), name  # weights are stored in 16 bits


def test_two_layers_find_induction_and_so_does_one_with_smeared_keys():
    best = {file.stem: pd.read_csv(file).filter(like="prefix_").max(axis=1) for file in FOLDER.glob("*.csv")}
    assert len(best) == 3 * induction.SEEDS
    for name, run in best.items():
        assert run.max() < 0.15 if name.startswith("layers_1") else run.iloc[-1] > 0.6, name


def test_records_are_small():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 1_000_000
