"""A mixture of hidden Markov models: documents drawn from it, and the exact Bayes predictor of their next token.

A document draws a concept, the number of one HMM, and then all its tokens from that HMM. Whoever reads it must infer
the concept in order to predict: that is in-context learning, as Xie et al. 2022 explain it.

Letters: B documents of T tokens, C concepts, K hidden states, V tokens of the vocabulary.
"""

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from iclnb.labs import at_least


@dataclass(frozen=True)
class Mixture:
    """C hidden Markov models that share their states and what a state shows, with a prior over them.

    Args:
        prior: probability of each concept, (C,) float64.
        start: probability of each first state, (C, K) float64.
        transition: probability of each next state (column) after each state (row), (C, K, K) float64.
        emission: probability that a state (row) shows a token (column), (K, V) float64.

    Raises:
        ValueError: shapes that do not fit, or rows that are not probabilities.
    """

    prior: Tensor
    start: Tensor
    transition: Tensor
    emission: Tensor

    def __post_init__(self):
        C, K = len(self.prior), len(self.emission)
        wanted = {"prior": (C,), "start": (C, K), "transition": (C, K, K), "emission": (K, self.emission.shape[-1])}
        for name, shape in wanted.items():
            p = getattr(self, name)
            if p.shape != shape:
                raise ValueError(f"{name} has shape {tuple(p.shape)}; with C = {C} and K = {K} it must be {shape}")
            if not ((p >= 0).all() and ((p.sum(-1) - 1).abs() < 1e-9).all()):
                sums = p.sum(-1).flatten()
                worst = sums[(sums - 1).abs().argmax()].item()
                raise ValueError(
                    f"{name} is not stochastic: its smallest entry is {p.min():g} and a row sums to {worst:.10g}"
                )

    def alone(self, concept: int) -> "Mixture":
        """The HMM of one concept, as a mixture of one."""
        one = slice(concept, concept + 1)
        return replace(
            self, prior=torch.ones_like(self.prior[one]), start=self.start[one], transition=self.transition[one]
        )

    def smoothed(self, epsilon: float) -> "Mixture":
        """The mixture in which every step goes to a uniformly drawn state with probability epsilon.

        Raises:
            ValueError: epsilon outside [0, 1].
        """
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon is {epsilon}; it is a probability, in [0, 1]")
        return replace(self, transition=(1 - epsilon) * self.transition + epsilon / len(self.emission))


@dataclass(frozen=True)
class Beliefs:
    """What the Bayes predictor knows after each token of each document.

    Args:
        next_token: p(o_{t+1} | o_1 .. o_t), (B, T, V).
        concept: p(concept | o_1 .. o_t), (B, T, C).
        log_prob: log p(o_1 .. o_T), (B,), in nats; minus infinity for a document that the mixture cannot write. From
            the first impossible token on, its rows in `next_token` and `concept` are NaN.
    """

    next_token: Tensor
    concept: Tensor
    log_prob: Tensor


def predict(mixture: Mixture, tokens: Tensor) -> Beliefs:
    """The exact Bayes predictor, by the forward algorithm with one scaling a step.

    The forward variable is p(concept, state | tokens so far); a step moves it by the transitions and weighs it by how
    well each state explains the next token. Time grows with T; the sum over paths that it stands for has K^T terms.

    Args:
        mixture: the HMMs and their prior.
        tokens: documents, (B, T) int64.

    Returns:
        Beliefs after every token.

    Raises:
        ValueError: no token, or a token outside the vocabulary.

    Source: Rabiner 1989, section III.A and V.A (scaling).
    """
    check_tokens(tokens, mixture.emission.shape[1])
    shows = mixture.emission.T[tokens].unsqueeze(1)  # (B, 1, T, K): how well each state explains each token
    forward = (mixture.prior[:, None] * mixture.start).expand(len(tokens), -1, -1)  # (B, C, K) before any token
    next_token, concept, log_prob = [], [], 0.0
    for t in range(tokens.shape[1]):
        forward = forward * shows[:, :, t]  # (B, C, K)
        mass = forward.sum((1, 2))  # (B,) = p(o_t | o_1 .. o_{t-1})
        log_prob = log_prob + mass.log()  # (B,)
        forward = forward / mass[:, None, None]  # (B, C, K) = p(concept, state | o_1 .. o_t)
        concept.append(forward.sum(2))  # (B, C)
        forward = torch.einsum("bck,ckl->bcl", forward, mixture.transition)  # (B, C, K), one step on
        next_token.append(forward.sum(1) @ mixture.emission)  # (B, V)
    log_prob = log_prob.masked_fill(log_prob.isnan(), -torch.inf)  # (B,) what follows an impossible token is NaN
    return Beliefs(torch.stack(next_token, 1), torch.stack(concept, 1), log_prob)


def predict_by_enumeration(mixture: Mixture, tokens: Tensor) -> Tensor:
    """p(next token | tokens) of one document, summed over every concept and every path of states.

    This is the definition; C * K^(T + 1) terms make it useless beyond a toy.

    Args:
        mixture: the HMMs and their prior.
        tokens: one document, (T,) int64.

    Returns:
        (V,) float64.
    """
    check_tokens(tokens, mixture.emission.shape[1])
    joint = torch.zeros(mixture.emission.shape[1], dtype=torch.float64)  # (V,) p(tokens, next token)
    for c, *path in itertools.product(range(len(mixture.prior)), *[range(len(mixture.emission))] * (len(tokens) + 1)):
        p = mixture.prior[c] * mixture.start[c, path[0]]  # ()
        for here, following, token in zip(path, path[1:], tokens, strict=False):
            p = p * mixture.emission[here, token] * mixture.transition[c, here, following]  # ()
        joint += p * mixture.emission[path[-1]]  # (V,)
    return joint / joint.sum()  # (V,)


def sample(mixture: Mixture, B: int, T: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw documents.

    Args:
        mixture: the HMMs and their prior.
        B, T: how many documents, and their length in tokens.
        generator: source of every choice.

    Returns:
        tokens (B, T) int64 and the concept of each document (B,) int64.

    Raises:
        ValueError: B or T below 1.
    """
    at_least(1, B=B, T=T)
    concept = choose(mixture.prior.expand(B, -1), generator)  # (B,)
    states = [choose(mixture.start[concept], generator)]  # (B,) each
    for _ in range(T - 1):
        states.append(choose(mixture.transition[concept, states[-1]], generator))
    return choose(mixture.emission[torch.stack(states, 1)], generator), concept  # (B, T), (B,)


def choose(p: Tensor, generator: torch.Generator) -> Tensor:
    """One draw from each distribution (..., n): where a uniform number falls among the cumulated probabilities."""
    u = torch.rand(*p.shape[:-1], 1, generator=generator, dtype=p.dtype)  # (..., 1)
    cumulated = p.cumsum(-1)  # (..., n)
    return (cumulated <= u * cumulated[..., -1:]).sum(-1)  # (...)


def check_tokens(tokens: Tensor, V: int) -> None:
    """Raise where tokens (..., T) are not T >= 1 numbers of a vocabulary of V."""
    if tokens.numel() == 0 or not 0 <= tokens.min() <= tokens.max() < V:
        raise ValueError(f"tokens of shape {tuple(tokens.shape)} must be at least one each, from 0 to {V - 1}")
