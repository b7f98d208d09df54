"""Prediction: the same numbers as transformers on the whole prompt, one query and one answer at a time."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from toys import save_checkpoint, toy_task

from iclnb import few_shot, load, zero_shot
from iclnb.experiment import predict as prediction
from iclnb.experiment.batching import Branches, neighbours, pad
from iclnb.experiment.predict import NotFiniteError
from iclnb.model.gpt import GPT, GPTConfig
from iclnb.model.memory import query_bytes
from iclnb.model.recorder import Recorder
from iclnb.tasks.prompts import build_prompt, encode_task
from iclnb.tasks.task import SPECS, Example


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    hf = save_checkpoint(folder, positions=512)
    return hf, *load(folder, device="cpu", dtype="float32")


def plain_log_probs(hf, model, tokenizer, task, k, seed):
    """The definition: mean log-probability of each answer's tokens after `<s> demonstrations query`, (n, classes)."""
    context = [model.config.bos_token_id]
    for example in task.demonstrations(k, seed):
        context += [*tokenizer.encode(f"{example.text} {task.answers[example.label]}"), model.config.eos_token_id]
    rows = []
    for example in task.evaluation:
        row = []
        for answer in task.answers:
            query, tokens = tokenizer.encode(example.text), tokenizer.encode(f" {answer}")
            with torch.no_grad():
                logits = hf(torch.tensor([context + query + tokens])).logits[0]
            log_probs = logits.log_softmax(-1)[len(context) + len(query) - 1 : -1]
            row.append(log_probs[range(len(tokens)), tokens].mean())
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.gpu
@pytest.mark.parametrize("name, k", [("sst2", 0), ("sst2", 5), ("sst5", 4), ("cb", 3)])
def test_log_probabilities_equal_a_plain_loop(name, k, setting, device):
    hf, model, tokenizer = setting
    task = toy_task(name=name)
    run = few_shot(deepcopy(model).to(device), tokenizer, task, k=k, seed=3)
    expected = plain_log_probs(hf, model, tokenizer, task, k, seed=3)
    torch.testing.assert_close(run.log_probs, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(run.predicted, expected.argmax(-1))
    assert run.labels.tolist() == [example.label for example in task.evaluation]
    assert run.accuracy == pytest.approx((expected.argmax(-1) == run.labels).float().mean().item())


def test_a_model_with_grouped_heads_equals_a_plain_loop_too(tmp_path):
    hf = save_checkpoint(tmp_path, "llama", positions=512, heads_a_key=2)
    model, tokenizer = load(tmp_path, device="cpu", dtype="float32")
    task = toy_task(name="sst5")
    run = few_shot(model, tokenizer, task, k=4, seed=3, record=True)
    expected = plain_log_probs(hf, model, tokenizer, task, 4, seed=3)
    torch.testing.assert_close(run.log_probs, expected, rtol=1e-5, atol=1e-5)
    assert run.internals.prefix_scores.shape == (9, 2, len(run.prompt.prefix))


def test_answers_of_one_token_and_of_several_are_both_covered(setting):
    tokenizer = setting[2]
    lengths = {len(tokenizer.encode(f" {a}")) for name in ("sst2", "sst5", "cb") for a in toy_task(name=name).answers}
    assert 1 in lengths and max(lengths) > 2


def follow(stems, branches, multiple=1):
    """Sequences that fork: each stem, followed by every branch."""
    device = torch.device("cpu")
    return Branches(branches, device).follow(*pad(stems, device), multiple)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_branches_do_not_see_each_other(positions):
    """One sequence that forks gives what each branch gives alone, whatever kind of positions the model has."""
    model = GPT(GPTConfig(vocab_size=50, n_layer=2, n_head=2, n_embd=16, positions=positions)).initialise(0).double()
    stems, branches = [[3, 4, 5, 6], [7, 8]], [[10, 11], [], [12, 13, 14]]
    prefix = model.encode_prefix(torch.tensor([[1, 2, 9]]))
    ids, places, mask = follow(stems, branches)
    forked = model.hidden(ids, prefix, positions=places, mask=mask)  # (B, T, C)
    for row, stem in enumerate(stems):
        start = len(stem)
        for tokens in branches:
            alone = model.hidden(torch.tensor([stem + tokens]), prefix)[0, len(stem) :]
            torch.testing.assert_close(forked[row, start : start + len(tokens)], alone, rtol=0, atol=1e-6)
            start += len(tokens)


GROUPED = {"positions": "rotary", "n_kv_head": 2, "parallel_residual": True}


@pytest.mark.parametrize("variant", [{}, GROUPED, {"momentum": (0.0, 0.3, 0.6, 0.9)}])
@pytest.mark.parametrize("forks", [False, True])
@torch.no_grad()
def test_the_last_block_skips_what_is_not_asked_for(forks, variant):
    model = GPT(GPTConfig(vocab_size=50, n_layer=2, n_head=4, n_embd=16, **variant)).initialise(0).double()
    ids, positions, mask = follow([[3, 4, 5, 6], [7, 8]], [[10, 11], [], [12, 13, 14]] if forks else [[10, 11]])
    at = torch.tensor([[3, 5, 0], [1, 3, 3]])  # (B, A)
    tokens = []
    for block in model.blocks:
        block.mlp.register_forward_pre_hook(lambda module, inputs: tokens.append(inputs[0].shape[1]))
    for prefix in (None, model.encode_prefix(torch.tensor([[1, 2, 9]]))):
        whole = model.hidden(ids, prefix, positions=positions, mask=mask)  # (B, T, C)
        expected = whole[torch.arange(2)[:, None], at]  # (B, A, C)
        for recorder, asked in ((None, at.shape[1]), (Recorder("output"), ids.shape[1])):
            found = model.hidden(ids, prefix, recorder, positions, mask, at=at)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
            assert tokens[-2:] == [ids.shape[1], asked]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size, padding", [(1, 0), (8, 0), (8, 20), (200, 40), (200, 10**6)])
def test_neighbours_are_as_many_as_size_and_padding_allow(size, padding, seed):
    lengths = sorted(torch.randint(1, 60, (100,), generator=torch.Generator().manual_seed(seed)).tolist())[::-1]
    runs = [lengths[run] for run in neighbours(lengths, size, padding)]
    assert sum(runs, []) == lengths
    wasted = [len(run) * run[0] - sum(run) for run in runs]
    assert all(0 < len(run) <= size and waste <= padding for run, waste in zip(runs, wasted, strict=True))
    for run, waste, following in zip(runs, wasted, runs[1:], strict=False):  # one more would have been too many
        assert len(run) == size or waste + run[0] - following[0] > padding


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("branches", [[[], []], [[10, 11], [], [12, 13, 14]], [[7]]])
def test_rows_places_and_masks_are_those_of_a_loop_over_queries(branches, multiple):
    stems = [[3, 4, 5, 6], [8], [7, 8, 9]]
    ids, positions, mask = follow(stems, branches, multiple)
    longest = len(stems[0]) + sum(map(len, branches))
    assert ids.shape[1] % multiple == 0 and longest <= ids.shape[1] < longest + multiple
    for row, stem in enumerate(stems):
        tokens = [(token, place, 0) for place, token in enumerate(stem)]
        for number, branch in enumerate(branches, start=1):
            tokens += [(token, len(stem) + place, number) for place, token in enumerate(branch)]
        tokens += [(0, 0, 0)] * (ids.shape[1] - len(tokens))
        assert list(zip(ids[row].tolist(), positions[row].tolist(), strict=True)) == [one[:2] for one in tokens]
        for t, (_, _, number) in enumerate(tokens):
            for j, (_, _, other) in enumerate(tokens):
                if mask is not None:
                    assert mask[row, 0, t, j] == (j <= t and other in (0, number))


@pytest.mark.parametrize("name", ["sst2", "sst5"])
def test_a_gpus_lengths_change_no_number(name, setting, monkeypatch):
    model, tokenizer = deepcopy(setting[1]).double(), setting[2]
    options = {"k": 4, "record": True, "position": "answer", "batch_size": 4}
    plain = few_shot(model, tokenizer, toy_task(name=name), **options)
    monkeypatch.setitem(prediction.MULTIPLE, "cpu", 8)
    lengths = fed(monkeypatch)
    padded = few_shot(model, tokenizer, toy_task(name=name), **options)
    assert not any(length % 8 for length in lengths[1:])
    torch.testing.assert_close(padded.log_probs, plain.log_probs, rtol=0, atol=1e-6)
    for a, b in zip(padded.internals.scores, plain.internals.scores, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name, record", [("sst2", False), ("sst5", True)])
def test_everything_is_sent_before_anything_is_waited_for(name, record, setting):
    """On torch's meta device, where no number can be read; the check that all are finite comes last, and wants one."""
    model, tokenizer = deepcopy(setting[1]).to("meta"), setting[2]
    encoded = encode_task(model.config, tokenizer, toy_task(evaluation=20, name=name), 4, 1)
    running = prediction.stream(model, encoded, record=record, batch_size=6)
    assert sum(len(next(running).rows) for _ in range(4)) == 20
    with pytest.raises(RuntimeError, match="item"):
        next(running)


def test_what_is_not_finite_is_said_where_it_was_not_waited_for(setting, monkeypatch):
    model, tokenizer = deepcopy(setting[1]), setting[2]
    with torch.no_grad():
        model.final_norm.weight[3] = float("nan")
    encoded = encode_task(model.config, tokenizer, toy_task(evaluation=20), 4, 1)
    monkeypatch.setattr(prediction, "AT_ONCE", ())  # as on a GPU
    running = prediction.stream(model, encoded, batch_size=6)
    assert sum(len(next(running).rows) for _ in range(4)) == 20
    with pytest.raises(NotFiniteError, match="not finite in torch.float32"):
        next(running)


def test_what_does_not_fork_needs_no_mask():
    for branches in ([[], []], [[], [5, 6]]):
        assert follow([[1, 2], [3]], branches)[2] is None


def fed(monkeypatch):
    """The lengths of all sequences that a model is fed from here on, a list that grows."""
    lengths, hidden = [], GPT.hidden

    def watched(self, ids, *more, **options):
        lengths.append(ids.shape[1])
        return hidden(self, ids, *more, **options)

    monkeypatch.setattr(GPT, "hidden", watched)
    return lengths


def test_what_all_queries_open_with_is_fed_once(setting, monkeypatch):
    _, model, tokenizer = setting
    task = toy_task(name="agnews")  # the template says what to do before the text comes
    queries = [tokenizer.encode(example.text) for example in task.evaluation]
    opening = len(tokenizer.encode(SPECS["agnews"].template.split(" {")[0]))
    lengths = fed(monkeypatch)
    run = few_shot(model, tokenizer, task, 3, 1, batch_size=1)
    assert opening > 10 and lengths[0] == len(run.prompt.prefix) + opening
    later = sum(len(tokenizer.encode(f" {answer}")) - 1 for answer in task.answers)  # answer tokens after the first
    assert sum(lengths[1:]) == sum(len(query) - opening + later for query in queries)


@pytest.mark.parametrize("texts", [["Review: a warm film", "Review: a warm film and"], ["Review:"], 3 * ["Review:"]])
def test_a_query_that_others_begin_with_keeps_its_last_token(texts, setting):
    hf, model, tokenizer = setting
    task = replace(toy_task(name="mr"), evaluation=[Example(text, 1) for text in texts])
    run = few_shot(model, tokenizer, task, 2, 1, record=True)
    expected = plain_log_probs(hf, model, tokenizer, task, 2, 1)
    torch.testing.assert_close(run.log_probs, expected, rtol=1e-5, atol=1e-5)
    lengths = [len(tokenizer.encode(text)) for text in texts]
    assert [scores.shape[-1] for scores in run.internals.scores] == lengths


@pytest.mark.parametrize("record", [False, True])
def test_the_batch_size_changes_nothing(record, setting):
    _, model, tokenizer = setting
    task = toy_task(evaluation=11, name="sst5")
    one, *others = (few_shot(model, tokenizer, task, 4, 1, batch_size=size, record=record) for size in (1, 8, None))
    for many in others:
        torch.testing.assert_close(one.log_probs, many.log_probs, rtol=1e-5, atol=1e-5)
        assert torch.equal(one.predicted, many.predicted) and torch.equal(one.labels, many.labels)
        if not record:
            continue
        for name in ("output", "prefix_scores", "query"):
            torch.testing.assert_close(
                getattr(one.internals, name), getattr(many.internals, name), rtol=1e-4, atol=1e-5
            )
        for a, b in zip(one.internals.scores, many.internals.scores, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def short_of_memory(fits, error, sizes):
    """_score on a machine where a pass of more than `fits` queries runs out of memory; `sizes` gets every pass."""
    score = prediction._score

    def scarce(model, prefix, queries, *more):
        sizes.append(len(queries))
        if len(queries) > fits:
            raise error
        return score(model, prefix, queries, *more)

    return scarce


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),  # what oneDNN says when it finds no room
    ],
)
def test_a_batch_that_memory_does_not_hold_is_halved(error, setting, monkeypatch):
    _, model, tokenizer = setting
    task, sizes = toy_task(evaluation=30), []
    expected = few_shot(model, tokenizer, task, 4, 1, batch_size=30, record=True)
    monkeypatch.setattr(prediction, "_score", short_of_memory(4, error, sizes))
    with pytest.warns(UserWarning, match="memory ran out with 10 queries a pass; going on with 2") as said:
        run = few_shot(model, tokenizer, task, 4, 1, batch_size=10, record=True)
    assert sizes == [10, 5, 2, 2, 2, 2, 2] + 10 * [2]  # what was found out holds for the batches that follow
    assert len(said) == 1
    torch.testing.assert_close(run.log_probs, expected.log_probs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run.internals.output, expected.internals.output, rtol=1e-4, atol=1e-5)


def test_runs_that_are_compared_keep_their_rows_together_when_one_runs_out_of_memory(setting, monkeypatch):
    _, model, tokenizer = setting
    task = toy_task(evaluation=30)
    encoded = encode_task(model.config, tokenizer, task, 4, 1)
    roomy = list(prediction.stream(model, encoded.zero_shot, batch_size=8))
    monkeypatch.setattr(prediction, "_score", short_of_memory(3, torch.OutOfMemoryError(), []))
    with pytest.warns(UserWarning, match="memory ran out"):
        scarce = list(prediction.stream(model, encoded, batch_size=8))
    assert [batch.rows for batch in scarce] == [batch.rows for batch in roomy]


@pytest.mark.parametrize("fits, error", [(9, RuntimeError("shapes differ")), (0, torch.OutOfMemoryError("no room"))])
def test_errors_that_smaller_batches_cannot_mend_come_through(fits, error, setting, monkeypatch, recwarn):
    _, model, tokenizer = setting
    monkeypatch.setattr(prediction, "_score", short_of_memory(fits, error, []))
    with pytest.raises(RuntimeError, match=str(error)):
        few_shot(model, tokenizer, toy_task(evaluation=20), 2, batch_size=10)


def test_passes_are_as_large_as_free_memory_allows(setting, monkeypatch):
    _, model, tokenizer = setting
    task, sizes = toy_task(evaluation=90), []
    monkeypatch.setattr(prediction, "_score", short_of_memory(100, None, sizes))
    monkeypatch.setitem(prediction.PADDING, "cpu", 10_000)
    zero_shot(model, tokenizer, task)
    assert sizes == [64, 26]  # memory to spare
    each = query_bytes(model.config, torch.float32, P=1, T=30, answer_tokens=2, record=False)
    monkeypatch.setattr(prediction, "free_bytes", lambda device: 20 * each)
    sizes.clear()
    few_shot(model, tokenizer, task, k=4)
    assert sum(sizes) == 90 and 1 < max(sizes) < 20
    monkeypatch.setattr(prediction, "free_bytes", lambda device: 0)
    sizes.clear()
    zero_shot(model, tokenizer, task)
    assert sizes == 90 * [1]


def test_recording_changes_no_prediction(setting):
    _, model, tokenizer = setting
    runs = [few_shot(model, tokenizer, toy_task(), 4, 1, **o) for o in ({}, {"record": True})]
    runs.append(few_shot(model, tokenizer, toy_task(), 4, 1, record=True, position="answer"))
    for run in runs[1:]:
        torch.testing.assert_close(run.log_probs, runs[0].log_probs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("position", ["query", "answer"])
def test_internals_are_those_of_the_whole_sequence(position, setting):
    """Each internal against transformers' own modules on `<s> demonstrations query (answer)`, fed as one sequence."""
    hf, model, tokenizer = setting
    task = toy_task(evaluation=3)
    run = few_shot(model, tokenizer, task, 3, 2, record=True, position=position)
    hf.set_attn_implementation("eager")
    P, H, D = len(run.prompt.prefix), 4, 8
    ends_with = tokenizer.encode(f" {task.answers[0]}") if position == "answer" else []
    seen = {}
    for layer, block in enumerate(hf.model.layers):
        block.self_attn.out_proj.register_forward_hook(lambda m, i, o, layer=layer: seen.update({("o", layer): o[0]}))
        block.self_attn.q_proj.register_forward_hook(lambda m, i, o, layer=layer: seen.update({("q", layer): o[0]}))
        block.self_attn.k_proj.register_forward_hook(lambda m, i, o, layer=layer: seen.update({("k", layer): o[0]}))
    for row, example in enumerate(task.evaluation):
        ids = run.prompt.prefix + tokenizer.encode(example.text) + ends_with
        with torch.no_grad():
            hf(torch.tensor([ids]))
        for layer in range(2):
            q, k = seen["q", layer][-1] / D**0.5, seen["k", layer]  # (C,), (T, C)
            logits = torch.einsum("hd,thd->ht", q.view(H, D), k.view(-1, H, D))  # (H, T)
            kept = run.internals
            close = {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(kept.output[row, layer], seen["o", layer][-1], **close)
            torch.testing.assert_close(kept.query[row, layer], q, **close)
            torch.testing.assert_close(kept.scores[row][layer], logits[:, P:], **close)
            torch.testing.assert_close(kept.prefix_scores[row, layer], logits[:, :P].sum(0), **close)


def test_own_tokens_leave_out_bos_in_zero_shot_as_in_few_shot(setting):
    _, model, tokenizer = setting
    task = toy_task()
    zsl = zero_shot(model, tokenizer, task, record=True)
    icl = few_shot(model, tokenizer, task, 3, 1, record=True)
    lengths = [len(tokenizer.encode(example.text)) for example in task.evaluation]
    for run in (zsl, icl):
        assert [scores.shape[-1] for scores in run.internals.scores] == lengths


def test_the_interval_holds_the_accuracy(setting):
    _, model, tokenizer = setting
    run = zero_shot(model, tokenizer, toy_task(evaluation=20))
    found = run.interval
    assert found.mean == run.accuracy and 0 <= found.low <= found.mean <= found.high <= 1 and found.low < found.high


def test_numbers_that_are_not_finite_stop_the_run(tmp_path):
    save_checkpoint(tmp_path, positions=512)
    model, tokenizer = load(tmp_path, device="cpu", dtype="float32")
    with torch.no_grad():
        model.final_norm.weight[3] = float("nan")
    with pytest.raises(NotFiniteError, match="not finite in torch.float32"):
        zero_shot(model, tokenizer, toy_task())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"limit": 0}, "limit is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"position": "last"}, "position is 'last'; accepted are 'query', 'answer'"),
        ({"k": 13}, "k is 13; task sst2 has 12 training examples"),
    ],
)
def test_bad_arguments_are_refused(options, message, setting):
    _, model, tokenizer = setting
    with pytest.raises(ValueError, match=message):
        few_shot(model, tokenizer, toy_task(), **({"k": 2} | options))


def test_the_prompt_says_how_many_demonstrations_fitted(setting):
    _, model, tokenizer = setting
    task = toy_task(train=80)
    run = few_shot(model, tokenizer, task, k=80, limit=2)
    assert run.prompt.k == build_prompt(model.config, tokenizer, task, 80, 1).k < 80
