"""Checks of the exercises in labs/e_implicit_bayes."""

from collections.abc import Callable

import torch
from torch import Tensor

from iclnb.checks.core import find_fault, randn, say


def concept_posterior(answer: Callable) -> None:
    """Checks p(concept | document), (B, C), given the prior (C,) and log p(document | concept), (B, C)."""
    prior, log_likelihood = torch.tensor([0.5, 0.2, 0.3]).double(), randn(4, 3, seed=30)
    joint = prior * log_likelihood.exp()  # (B, C)
    right = joint / joint.sum(1, keepdim=True)
    mistakes = [
        (log_likelihood.softmax(1), "the prior is missing: the joint probability is prior times likelihood"),
        (joint, "this is the joint probability; divide each row by its sum"),
        (joint / joint.sum(0), "you divided by the sum over documents; each document's row must sum to 1"),
        (joint / joint.sum(), "you divided by the sum over everything; each document's row must sum to 1"),
        ((prior.log() + log_likelihood).log_softmax(1), "this is the logarithm of the posterior"),
        ((prior + log_likelihood).softmax(1), "the prior belongs under the logarithm: add log prior"),
        (prior * log_likelihood.softmax(1), "normalise after multiplying with the prior, not before"),
    ]
    fault = find_fault(answer, (prior, log_likelihood), right, "the posterior", "(B, C)", mistakes)
    if fault is None:  # a document of 1,000 tokens: likelihoods that no float64 holds
        long = 5 * log_likelihood - 2000
        if find_fault(answer, (prior, long), (prior.log() + long).softmax(1), "the posterior", "(B, C)", []):
            fault = "right for short documents, but exp underflows for long ones; stay in logarithms and use softmax"
    say(fault, "Bayes' rule, and it survives documents of any length")


def forward_step(answer: Callable) -> None:
    """Checks one step of the forward algorithm, (C, K), given forward (C, K), transition (C, K, K) and shows (K,)."""
    forward, transition = randn(2, 3, seed=31).exp(), randn(2, 3, 3, seed=32).exp()
    forward, transition = forward / forward.sum(), transition / transition.sum(2, keepdim=True)
    shows = torch.tensor([0.7, 0.1, 0.4]).double()  # (K,)

    def normalised(joint: Tensor) -> Tensor:
        return joint / joint.sum()

    moved = torch.einsum("ck,ckl->cl", forward, transition)  # (C, K)
    backwards = torch.einsum("cl,ckl->ck", forward, transition)
    right = normalised(moved * shows)
    mistakes = [
        (moved * shows, "divide by the sum over concepts and states: that sum is the token's probability"),
        (moved, "the token is missing: weigh each state by how probably it shows the token"),
        (normalised(forward * shows), "the step is missing: move the old beliefs by the transitions first"),
        (normalised(backwards * shows), "the transitions run backwards: row k is the state before, column l after"),
        (
            normalised(torch.einsum("ck,ckl->cl", forward * shows, transition)),
            "you weighed by the token before the step; the new token is shown by the state after it",
        ),
        (
            (moved * shows) / (moved * shows).sum(1, keepdim=True),
            "you normalised within each concept; that forgets which concept explains the document better",
        ),
    ]
    fault = find_fault(answer, (forward, transition, shows), right, "the new beliefs", "(C, K)", mistakes)
    say(fault, "move, weigh, normalise: that is the whole algorithm")


def total_variation(answer: Callable) -> None:
    """Checks the total variation distance, (B,), of distributions p and q, each (B, V)."""
    p, q = randn(4, 5, seed=33).softmax(1), randn(4, 5, seed=34).softmax(1)
    difference = (p - q).abs()  # (B, V)
    right = difference.sum(1) / 2
    mistakes = [
        (difference.sum(1), "the half is missing: mass that moves is counted where it leaves and where it arrives"),
        (difference.mean(1) / 2, "you took the mean over tokens; take the sum"),
        (difference.mean(1), "you took the mean over tokens; take half the sum"),
        ((p - q).sum(1) / 2, "the absolute value is missing, so that the differences cancel"),
        ((p - q).square().sum(1).sqrt(), "this is the Euclidean distance"),
        (difference.max(1).values, "this is the largest single difference; half of all differences together was asked"),
        ((p * (p / q).log()).sum(1), "this is the KL divergence"),
    ]
    say(
        find_fault(answer, (p, q), right, "the distance", "(B,)", mistakes), "0 for equal, 1 for disjoint distributions"
    )
