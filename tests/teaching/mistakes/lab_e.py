"""Mistakes that readers make in labs/e_implicit_bayes, and a part of what they are told."""

import torch

from iclnb.teaching import checks


def over(x, dim=None):
    return x / (x.sum() if dim is None else x.sum(dim, keepdim=True))


def step(f, A, order="ck,ckl->cl"):
    return torch.einsum(order, f, A)


MISTAKES = [
    (checks.concept_posterior, lambda p, ll: ll.softmax(1), "the prior is missing"),
    (checks.concept_posterior, lambda p, ll: p * ll.exp(), "divide each row by its sum"),
    (checks.concept_posterior, lambda p, ll: over(p * ll.exp(), 0), "the sum over documents"),
    (checks.concept_posterior, lambda p, ll: over(p * ll.exp()), "the sum over everything"),
    (checks.concept_posterior, lambda p, ll: (p.log() + ll).log_softmax(1), "the logarithm of the posterior"),
    (checks.concept_posterior, lambda p, ll: (p + ll).softmax(1), "add log prior"),
    (checks.concept_posterior, lambda p, ll: p * ll.softmax(1), "normalise after multiplying"),
    (checks.concept_posterior, lambda p, ll: over(p * ll.exp(), 1), "exp underflows for long ones"),
    (checks.concept_posterior, lambda p, ll: over(p * (ll - ll.max()).exp(), 1), "shift each row alone"),
    (checks.forward_step, lambda f, A, b: step(f, A) * b, "divide by the sum over concepts and states"),
    (checks.forward_step, lambda f, A, b: step(f, A), "the token is missing"),
    (checks.forward_step, lambda f, A, b: over(f * b), "the step is missing"),
    (checks.forward_step, lambda f, A, b: over(step(f, A, "cl,ckl->ck") * b), "the transitions run backwards"),
    (checks.forward_step, lambda f, A, b: over(step(f * b, A)), "before the step"),
    (checks.forward_step, lambda f, A, b: over(step(f, A) * b, 1), "within each concept"),
]
