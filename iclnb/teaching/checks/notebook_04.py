"""Checks of the exercises in 04_attention_only_finetuning."""

import torch
from torch import Tensor

from iclnb.attention.softmax import softmax_attention
from iclnb.teaching.checks.core import Case, exercise, randn


@exercise("the loss", "()", "each of the last a tokens is predicted from the place before it")
def answer_loss() -> Case:
    """Checks the mean loss of a sequence's last tokens, given (logits (T, V), ids (T,), their number a)."""
    logits, a = 2 * randn(7, 5, seed=20), 2  # (T, V)
    ids = torch.tensor([0, 3, 1, 4, 2, 0, 3])  # (T,)
    losses = -logits.log_softmax(-1)  # (T, V) of every token at every place
    right = losses[-a - 1 : -1].gather(1, ids[-a:, None]).mean()  # ()
    unshifted = losses[-a:].gather(1, ids[-a:, None]).mean()  # ()
    every = losses[:-1].gather(1, ids[1:, None])  # (T - 1, 1)
    raw = -logits[-a - 1 : -1].gather(1, ids[-a:, None]).mean()  # ()
    yield (logits, ids, a), right
    yield unshifted, "the logits at a token predict the *next* one; take those from one place earlier"
    yield every.mean(), "this is the loss of all tokens; only the last a count"
    yield right * a / (len(ids) - 1), "you divided by all predicted tokens; divide by the a that count"
    yield a * right, "this is the sum over the a tokens; their mean was asked for"
    yield -right, "the sign is wrong: a loss is *minus* the log-probability"
    yield raw, "these are logits; log_softmax over the vocabulary makes them log-probabilities"


@exercise("the stack of W_K and W_V", "(2, D, D)", "both move at once, by gradients at the old weights, and W_Q stays")
def keys_values_step() -> Case:
    """Checks one SGD step on keys and values, given (W_Q, W_K, W_V (D, D), X (T, D), Y (T, D), lr)."""
    W_Q, W_K, W_V = (randn(3, 3, seed=seed) for seed in (21, 22, 23))  # (D, D) each
    X, Y, lr = randn(4, 3, seed=24), randn(4, 3, seed=25), 0.1

    def gradients(*weights: Tensor, causal: bool = True) -> list[Tensor]:
        W = [w.clone().requires_grad_() for w in weights]
        A = softmax_attention(*(X @ w.T for w in W), causal=causal)  # (T, D)
        return torch.autograd.grad(0.5 * (A - Y).square().sum(), W)

    with torch.enable_grad():
        dL_Q, dL_K, dL_V = gradients(W_Q, W_K, W_V)  # (D, D) each
        _, late_K, _ = gradients(W_Q, W_K, W_V - lr * dL_V)
        _, _, late_V = gradients(W_Q, W_K - lr * dL_K, W_V)
        _, open_K, open_V = gradients(W_Q, W_K, W_V, causal=False)
    right = torch.stack([W_K - lr * dL_K, W_V - lr * dL_V])  # (2, D, D)
    yield (W_Q, W_K, W_V, X, Y, lr), right
    yield torch.stack([-lr * dL_K, -lr * dL_V]), "these are the updates; return the new weights"
    yield torch.stack([W_K + lr * dL_K, W_V + lr * dL_V]), "the sign is wrong: a step goes against the gradient"
    yield torch.stack([W_K - dL_K, W_V - dL_V]), "the learning rate is missing"
    yield right.flip(0), "the two are in the wrong order: first W_K, then W_V"
    yield torch.stack([W_Q - lr * dL_Q, W_V - lr * dL_V]), "you moved the queries; keys and values are what is trained"
    yield torch.stack([W_Q - lr * dL_Q, W_K - lr * dL_K]), "you moved queries and keys; keys and values are trained"
    yield torch.stack([right[0], W_V - lr * late_V]), "your values see the keys after their step; one step moves both"
    yield torch.stack([W_K - lr * late_K, right[1]]), "your keys see the values after their step; one step moves both"
    yield torch.stack([W_K - lr * open_K, W_V - lr * open_V]), "your attention looks ahead; it must be causal"


@exercise("the flattery", "()", "chosen on one set of examples, looked up on another")
def flattery() -> Case:
    """Checks how far the best of S settings is overrated, given accuracies (chosen_on (draws, S), fresh (draws, S))."""
    chosen_on, fresh = randn(6, 4, seed=26), randn(6, 4, seed=27)  # (draws, S) each
    best = chosen_on.argmax(1, keepdim=True)  # (draws, 1)
    reported, confirmed = chosen_on.max(1).values, fresh.gather(1, best)[:, 0]  # (draws,) each
    one_for_all = chosen_on.mean(0).argmax()  # ()
    yield (chosen_on, fresh), (reported - confirmed).mean()
    best_afresh = (reported - fresh.max(1).values).mean()  # ()
    yield best_afresh, "you took the best of the fresh accuracies; the setting is chosen already, so look up that one"
    yield (confirmed - reported).mean(), "the sign is wrong: reported minus confirmed"
    yield reported.mean(), "this is what is reported; subtract what fresh examples say of the same setting"
    yield (reported - chosen_on.mean(1)).mean(), "you compared with the mean setting, not with the chosen one afresh"
    yield (chosen_on - fresh)[:, one_for_all].mean(), "you chose one setting for all draws; each makes its own choice"
    yield (reported - fresh.mean(1)).mean(), "you compared with the mean fresh accuracy; look up the chosen setting's"
