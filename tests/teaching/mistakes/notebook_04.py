"""Mistakes that readers make in 04_attention_only_finetuning, and a part of what they are told."""

import torch

from iclnb.attention.softmax import softmax_attention
from iclnb.teaching import checks


def token_losses(logits, ids):
    return -logits[:-1].log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]  # (T - 1,)


def grad(X, Y, *weights, causal=True):
    W = [w.clone().requires_grad_() for w in weights]
    A = softmax_attention(*(X @ w.T for w in W), causal=causal)
    return torch.autograd.grad(0.5 * (A - Y).square().sum(), W)


def step(which, sign=-1, rate=True, causal=True):
    """A step on two of the three weights, by their numbers."""

    def answer(Q, K, V, X, Y, lr):
        W, G = (Q, K, V), grad(X, Y, Q, K, V, causal=causal)
        return torch.stack([W[i] + sign * (lr if rate else 1) * G[i] for i in which])

    return answer


def updates(Q, K, V, X, Y, lr):
    return -lr * torch.stack(grad(X, Y, Q, K, V)[1:])


def keys_first(Q, K, V, X, Y, lr):
    new_K = K - lr * grad(X, Y, Q, K, V)[1]
    return torch.stack([new_K, V - lr * grad(X, Y, Q, new_K, V)[2]])


def values_first(Q, K, V, X, Y, lr):
    new_V = V - lr * grad(X, Y, Q, K, V)[2]
    return torch.stack([K - lr * grad(X, Y, Q, K, new_V)[1], new_V])


def looked_up(table, by):
    return table[torch.arange(len(table)), by.argmax(1)]


MISTAKES = [
    (checks.answer_loss, lambda z, ids, a: token_losses(z, ids).mean(), "only the last a count"),
    (checks.answer_loss, lambda z, ids, a: token_losses(z, ids)[-a:].sum(), "the sum over the a tokens"),
    (checks.answer_loss, lambda z, ids, a: token_losses(z, ids)[-a:].sum() / (len(ids) - 1), "all predicted tokens"),
    (checks.answer_loss, lambda z, ids, a: -token_losses(z, ids)[-a:].mean(), "the sign is wrong"),
    (
        checks.answer_loss,
        lambda z, ids, a: torch.nn.functional.cross_entropy(z[-a:], ids[-a:]),
        "from one place earlier",
    ),
    (
        checks.answer_loss,
        lambda z, ids, a: -z[-a - 1 : -1].gather(1, ids[-a:, None]).mean(),
        "log_softmax over the vocabulary",
    ),
    (checks.keys_values_step, updates, "these are the updates"),
    (checks.keys_values_step, step((1, 2), sign=1), "against the gradient"),
    (checks.keys_values_step, step((1, 2), rate=False), "the learning rate is missing"),
    (checks.keys_values_step, step((2, 1)), "the wrong order"),
    (checks.keys_values_step, step((0, 2)), "you moved the queries;"),
    (checks.keys_values_step, step((0, 1)), "you moved queries and keys"),
    (checks.keys_values_step, step((1, 2), causal=False), "looks ahead"),
    (checks.keys_values_step, keys_first, "your values see the keys after their step"),
    (checks.keys_values_step, values_first, "your keys see the values after their step"),
    (checks.flattery, lambda c, f: (c.max(1).values - f.max(1).values).mean(), "look up that one"),
    (checks.flattery, lambda c, f: (looked_up(f, c) - c.max(1).values).mean(), "reported minus confirmed"),
    (checks.flattery, lambda c, f: c.max(1).values.mean(), "this is what is reported"),
    (checks.flattery, lambda c, f: (c.max(1).values - c.mean(1)).mean(), "with the mean setting"),
    (checks.flattery, lambda c, f: (c - f)[:, c.mean(0).argmax()].mean(), "one setting for all draws"),
    (checks.flattery, lambda c, f: (c.max(1).values - f.mean(1)).mean(), "the mean fresh accuracy"),
    (checks.flattery, lambda c, f: c.max(1).values - looked_up(f, c), "has shape (6,)"),
]
