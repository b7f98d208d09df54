"""Checks of the exercises in labs/e_implicit_bayes."""

import torch
from torch import Tensor

from iclnb.teaching.checks.core import Case, exercise, randn


@exercise("the posterior", "(B, C)", "Bayes' rule, and it survives documents of any length")
def concept_posterior() -> Case:
    """Checks p(concept | document), (B, C), given the prior (C,) and log p(document | concept), (B, C)."""
    prior, log_likelihood = torch.tensor([0.5, 0.2, 0.3]).double(), randn(4, 3, seed=30)
    joint = prior * log_likelihood.exp()  # (B, C)
    yield (prior, log_likelihood), joint / joint.sum(1, keepdim=True)
    yield log_likelihood.softmax(1), "the prior is missing: the joint probability is prior times likelihood"
    yield joint, "this is the joint probability; divide each row by its sum"
    yield joint / joint.sum(0), "you divided by the sum over documents; each document's row must sum to 1"
    yield joint / joint.sum(), "you divided by the sum over everything; each document's row must sum to 1"
    yield (prior.log() + log_likelihood).log_softmax(1), "this is the logarithm of the posterior"
    yield (prior + log_likelihood).softmax(1), "the prior belongs under the logarithm: add log prior"
    yield prior * log_likelihood.softmax(1), "normalise after multiplying with the prior, not before"
    long = 5 * log_likelihood - 2000  # of documents of 1,000 tokens: likelihoods that no float64 holds
    fails = "right for short documents, but exp underflows for long ones; stay in logarithms and use softmax"
    yield (prior, long), (prior.log() + long).softmax(1), fails
    unlike = log_likelihood + torch.tensor([[-10.0], [-5000.0], [-300.0], [-900.0]])  # documents of unlike length
    fails = (
        "right for documents of one length, but beside a short one exp underflows for a long one; shift each row alone"
    )
    yield (prior, unlike), (prior.log() + unlike).softmax(1), fails


@exercise("the table of new beliefs", "(C, K)", "move, weigh, normalise: that is the whole algorithm")
def forward_step() -> Case:
    """Checks one step of the forward algorithm, (C, K), given forward (C, K), transition (C, K, K) and shows (K,)."""
    forward, transition = randn(2, 3, seed=31).exp(), randn(2, 3, 3, seed=32).exp()
    forward, transition = forward / forward.sum(), transition / transition.sum(2, keepdim=True)
    shows = torch.tensor([0.7, 0.1, 0.4]).double()  # (K,)

    def normalised(joint: Tensor) -> Tensor:
        return joint / joint.sum()

    moved = torch.einsum("ck,ckl->cl", forward, transition)  # (C, K)
    backwards = torch.einsum("cl,ckl->ck", forward, transition)  # (C, K)
    early = torch.einsum("ck,ckl->cl", forward * shows, transition)  # (C, K)
    by_concept = (moved * shows) / (moved * shows).sum(1, keepdim=True)  # (C, K)
    yield (forward, transition, shows), normalised(moved * shows)
    yield moved * shows, "divide by the sum over concepts and states: that sum is the token's probability"
    yield moved, "the token is missing: weigh each state by how probably it shows the token"
    yield normalised(forward * shows), "the step is missing: move the old beliefs by the transitions first"
    yield normalised(backwards * shows), "the transitions run backwards: row k is the state before, column l after"
    yield normalised(early), "you weighed by the token before the step; the state after it shows the new token"
    yield by_concept, "you normalised within each concept; that forgets which concept explains the document better"
