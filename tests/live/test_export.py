"""Whether pocket-gpt as ONNX is pocket-gpt: its logits, its attention, and several prompts in one sequence."""

import pytest
import torch

import iclnb
from iclnb.attention import duality
from iclnb.model import heads
from iclnb.tasks.prompts import encode_task


@pytest.fixture(scope="module")
def session(live):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra live is not installed")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(live / "pocket-gpt.onnx"), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def pocket():
    return iclnb.load("pocket-gpt", device="cpu", dtype="float32")


def run(session, ids, positions, mask, at):
    feed = {"ids": ids[None], "positions": positions[None], "mask": mask[None, None], "at": torch.as_tensor(at)}
    return [torch.from_numpy(x) for x in session.run(None, {name: x.numpy() for name, x in feed.items()})]


def causal(T):
    return torch.ones(T, T).tril() > 0  # (T, T)


@pytest.mark.parametrize("T", [2, 60, 640])
def test_logits_are_those_of_iclnb(session, pocket, T):
    model, _ = pocket
    ids = torch.randint(model.config.vocab_size, (T,))
    logits, _ = run(session, ids, torch.arange(T), causal(T), range(T))
    with torch.no_grad():
        expected = model(ids[None])[0]  # (T, V)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["sst2", "cb"])
def test_the_attention_on_the_demonstrations_is_lam(session, pocket, name):
    model, tokenizer = pocket
    encoded = encode_task(model.config, tokenizer, iclnb.load_task(name, "sample"), k=8, seed=1, limit=1)
    prefix, query = encoded.prompt.prefix, encoded.queries[0]
    T, P = len(prefix) + len(query), len(prefix)
    _, attention = run(session, torch.tensor([*prefix, *query]), torch.arange(T), causal(T), [T - 1])  # (L, H, T)
    seen = heads.read(model, model.encode_prefix(torch.tensor([prefix])), query)
    lam, _, _ = duality.exact_split(*seen)  # (L, H, 1, 1)
    torch.testing.assert_close(attention[..., 1:P].sum(-1).double(), lam[..., 0, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:2]))


def test_prompts_that_share_their_beginning_share_a_sequence(session, pocket):
    model, _ = pocket
    ids, ends, T = torch.randint(model.config.vocab_size, (40,)), (20, 30), 10  # two queries of 5 behind 20 and 30
    both = torch.cat([ids[:30], ids[30:35], ids[35:]])  # (40,)
    positions = torch.cat([torch.arange(30), *(end + torch.arange(T // 2) for end in ends)])  # (40,)
    mask = causal(40)
    mask[30:35, 20:30] = mask[35:, 30:35] = False  # the first sees 20 of the tokens, and neither sees the other
    logits, _ = run(session, both, positions, mask, [34, 39])
    with torch.no_grad():
        alone = [model(torch.cat([ids[:20], ids[30:35]])[None]), model(torch.cat([ids[:30], ids[35:]])[None])]
    torch.testing.assert_close(logits, torch.stack([x[0, -1] for x in alone]), atol=1e-4, rtol=0)
