"""GINC, the synthetic data of Xie et al. 2022: its concepts, its prompts, and small GPTs trained on it.

A hidden state is a pair (entity, property), and a memory matrix says which token the pair shows. Entities and
properties are two Markov chains; a concept is the transition matrix of the properties. Property 0 shows the delimiter
"/", whatever the entity.

Letters: B documents or prompts of T tokens, C concepts, K hidden states, V tokens, N examples of length k.

Source: Xie et al. 2022, section 4 and appendix F, and the code released with it (p-lambda/incontext-learning).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations, product
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iclnb import intervals
from iclnb.labs import at_least
from iclnb.labs.hmm import Mixture, choose, predict, sample
from iclnb.model.gpt import GPT, GPTConfig
from iclnb.training.loop import Batch, Schedule, train

N = 10  # entities, and properties
VOCABULARY = 50
DELIMITER = 0
WORDS = ("/", *["".join(letters) for n in (1, 2) for letters in permutations(ascii_lowercase, n)][: VOCABULARY - 1])


@dataclass(frozen=True)
class Ginc:
    """The parameters of GINC, in the parts they are made of.

    Args:
        memory: the token of each entity (row) and property (column), (N, N) int64; column 0 is the delimiter.
        entity: transition matrix of the entities, the same for all concepts, (N, N) float64.
        property: transition matrix of the properties of each concept, (C, N, N) float64.
        start: probability of each first entity and property, (C, N, N) float64.
    """

    memory: Tensor
    entity: Tensor
    property: Tensor
    start: Tensor

    def mixture(self) -> Mixture:
        """The mixture of HMMs over K = N^2 states, entity * N + property, with equally probable concepts."""
        C, K = len(self.property), self.memory.numel()
        both = torch.einsum("ij,cpq->cipjq", self.entity, self.property)  # (C, N, N, N, N), two independent chains
        emission = torch.nn.functional.one_hot(self.memory.flatten(), VOCABULARY).double()  # (K, V)
        return Mixture(
            torch.full((C,), 1 / C, dtype=torch.float64), self.start.flatten(1), both.reshape(C, K, K), emission
        )


def ginc(concepts: int = 5, seed: int = 1111) -> Ginc:
    """Draw GINC's parameters.

    Args:
        concepts: C. The release draws ten, and writes its documents with the first five.
        seed: of all draws, which are made in the release's order; 1111 gives the parameters of the released data.

    Returns:
        The parameters.

    Raises:
        ValueError: concepts below 1.
    """
    at_least(1, concepts=concepts)
    draw = np.random.RandomState(seed)  # the generator of the release; numpy keeps its numbers the same for ever
    memory = draw.randint(1, VOCABULARY, size=(N, N))  # (N, N)
    memory[:, 0] = DELIMITER
    start, property = [], []
    for _ in range(concepts):
        start.append(softmax(draw.rand(N * N), 10.0).reshape(N, N))  # nearly uniform
        property.append(permutation_mixture(draw))
    entity = 0.9 * np.eye(N) + 0.1 * permutation_mixture(np.random.RandomState(seed + 3))  # entities last
    tables = (
        torch.from_numpy(np.stack(part) if isinstance(part, list) else part) for part in (entity, property, start)
    )
    return Ginc(torch.from_numpy(memory), *tables)


def permutation_mixture(draw: np.random.RandomState) -> np.ndarray:
    """A doubly stochastic (N, N) matrix: N random permutations, with weights that a few of them dominate."""
    weights = softmax(draw.rand(N), 0.1)  # (N,)
    return sum(w * np.eye(N)[draw.permutation(N)] for w in weights)


def softmax(x: np.ndarray, temperature: float) -> np.ndarray:
    """exp(x / temperature), normalised; x (n,)."""
    weights = np.exp((x - x.max()) / temperature)  # (n,)
    return weights / weights.sum()


def random_transitions(world: Ginc) -> Ginc:
    """The ablation in which every state follows every state: the same tokens, and nothing to infer."""
    return Ginc(world.memory, *(torch.full_like(p, 1 / N) for p in (world.entity, world.property)), world.start)


def one_concept(world: Ginc) -> Ginc:
    """The ablation in which pretraining shows the first concept alone."""
    return Ginc(world.memory, world.entity, world.property[:1], world.start[:1])


# ------------------------------------------------------------------------------------------------------------- prompts


@dataclass(frozen=True)
class Prompts:
    """B prompts of N + 1 examples each, written so that example n + 1 is the query after n demonstrations.

    Args:
        tokens: the examples, each followed by a delimiter, (B, (N + 1) * (k + 1)) int64.
        concept: (B,) int64.
        answer: p(last token | the k - 1 tokens before it, concept, first property), (B, N + 1, V). The task is to say
            its most probable token.
        asked: the position before the last token of each example, (N + 1,) int64: what is predicted there, counts.
        k: length of the examples.
    """

    tokens: Tensor
    concept: Tensor
    answer: Tensor
    asked: Tensor
    k: int

    @property
    def examples(self) -> Tensor:
        """The examples without their delimiters, (B, N + 1, k); the last is the query, with the token to predict."""
        return self.tokens.view(len(self.tokens), -1, self.k + 1)[..., :-1]

    def with_demonstrations(self, examples: Tensor) -> "Prompts":
        """The last queries once more, after other demonstrations (B, n, k): n may be 0. Nothing else is asked."""
        rows = torch.cat([examples, self.examples[:, -1:]], 1)  # (B, n + 1, k)
        tokens = F.pad(rows, (0, 1), value=DELIMITER).flatten(1)  # (B, (n + 1) * (k + 1))
        return replace(self, tokens=tokens, answer=self.answer[:, -1:], asked=torch.tensor([tokens.shape[1] - 3]))


def prompts(world: Ginc, B: int, examples: int, k: int, generator: torch.Generator) -> Prompts:
    """Draw prompts: examples of one concept that start with one property and any entity, delimiters between them.

    Args:
        world: the parameters.
        B: how many prompts.
        examples: N, demonstrations before the last query.
        k: tokens of an example, the last of which is to be predicted.
        generator: source of every choice.

    Returns:
        The prompts.

    Raises:
        ValueError: B below 1, examples below 0 or k below 2.

    Source: Xie et al. 2022, section 4.1.
    """
    at_least(1, B=B)
    at_least(0, examples=examples)
    at_least(2, k=k)
    M = examples + 1
    concept = torch.randint(len(world.property), (B,), generator=generator)  # (B,)
    first = torch.randint(1, N, (B,), generator=generator)  # (B,) the property that all examples start with
    property = world.property[concept].unsqueeze(1).expand(B, M, N, N)  # (B, M, N, N)
    s, v = first[:, None].expand(B, M), torch.randint(N, (B, M), generator=generator)  # (B, M) each
    tokens = [world.memory[v, s]]  # (B, M) each
    for _ in range(k - 1):
        v = choose(world.entity[v], generator)  # (B, M)
        s = choose(property.gather(2, s[..., None, None].expand(B, M, 1, N)).squeeze(2), generator)  # (B, M)
        tokens.append(world.memory[v, s])
    answer, _ = last_token(world, torch.stack(tokens[:-1], -1), concept, first)  # (B, M, V)
    rows = torch.stack([*tokens, torch.full((B, M), DELIMITER)], -1)  # (B, M, k + 1)
    return Prompts(rows.flatten(1), concept, answer, torch.arange(M) * (k + 1) + k - 2, k)


def last_token(world: Ginc, x: Tensor, concept: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """p(next token | x, concept, first property), every first entity being as probable, by the forward algorithm.

    Args:
        x: the tokens of each example but the last, (B, M, k - 1).
        concept, first: of each prompt, (B,).

    Returns:
        That, (B, M, V) float64, and log p(x | concept, first property), (B, M): minus infinity where x is impossible,
        and every next token there has probability 0.
    """
    shows = torch.nn.functional.one_hot(world.memory, VOCABULARY).double()  # (N, N, V)
    forward = torch.nn.functional.one_hot(first, N).double()[:, None, None, :] / N  # (B, 1, 1, N): p(entity, property)
    log_prob = 0.0
    for token in x.unbind(-1):  # (B, M) each
        forward = forward * shows.permute(2, 0, 1)[token]  # (B, M, N, N)
        mass = forward.sum((2, 3))  # (B, M): p(token | those before it)
        log_prob = log_prob + mass.log()  # (B, M)
        forward = forward / mass.clamp(min=1e-300)[..., None, None]
        forward = torch.einsum("bmvs,vw,bst->bmwt", forward, world.entity, world.property[concept])  # (B, M, N, N)
    return torch.einsum("bmvs,vst->bmt", forward, shows), log_prob  # (B, M, V), (B, M)


# --------------------------------------------------------------------------------------------------------- predictions


def bayes_predictions(mixture: Mixture, asked: Prompts) -> Tensor:
    """What the Bayes predictor of a mixture says where prompts ask, (B, N + 1, V)."""
    return predict(mixture, asked.tokens).next_token[:, asked.asked]  # (B, N + 1, V)


def prompt_aware_predictions(world: Ginc, asked: Prompts) -> Tensor:
    """What a Bayes predictor says that knows how prompts are made, (B, N + 1, V).

    Examples start afresh after a delimiter, with one property; it infers which, and the concept. An example is evidence
    about this pair, and independent of the others.
    """
    x, last = asked.examples.split([asked.k - 1, 1], -1)  # (B, N + 1, k - 1), (B, N + 1, 1)
    answers, queries, before = [], [], []  # of each pair of a concept and a first property
    for concept, first in product(range(len(world.property)), range(1, N)):
        pair = (torch.full((len(x),), number) for number in (concept, first))
        answer, query = last_token(world, x, *pair)  # (B, N + 1, V), (B, N + 1)
        example = query + answer.gather(-1, last).squeeze(-1).log()  # (B, N + 1) log p(example | pair)
        before.append(F.pad(example.cumsum(1)[:, :-1], (1, 0)))  # (B, N + 1) of the n demonstrations
        answers.append(answer)
        queries.append(query)
    posterior = (torch.stack(before) + torch.stack(queries)).softmax(0)  # (pairs, B, N + 1)
    predictions = torch.einsum("pbm,pbmv->bmv", posterior, torch.stack(answers))  # (B, N + 1, V)
    return predictions[:, -len(asked.asked) :]  # of the last query alone, where no other is asked


@torch.no_grad()
def gpt_predictions(model: GPT, asked: Prompts, batch: int = 100) -> Tensor:
    """What a GPT says where prompts ask, (B, N + 1, V) float32."""
    parts = [model.logits(model.hidden(ids)[:, asked.asked]).softmax(-1) for ids in asked.tokens.split(batch)]
    return torch.cat(parts)  # (B, N + 1, V)


def correct(predictions: Tensor, asked: Prompts) -> Tensor:
    """Whether the most probable token is the task's answer, (B, N + 1) bool, for predictions (B, N + 1, V)."""
    return predictions.argmax(-1) == asked.answer.argmax(-1)  # (B, N + 1)


# ------------------------------------------------------------------------------------------------------------ training

SHAPE = {"n_layer": 4, "n_head": 3, "n_embd": 96, "n_positions": 1024, "positions": "rotary"}
BATCH, LENGTH = 6, 384  # documents a step, tokens a document
# What pretraining shows, and for how many steps; the two ablations have less to learn.
PRETRAINING = {"mixture": 1500, "one concept": 500, "random transitions": 50}
LENGTHS_OF_EXAMPLES = (3, 5, 8, 10)  # k, as in Xie et al.
ABLATED_LENGTH = 5  # k of the prompts that all three kinds of pretraining are compared on
NUMBERS_OF_EXAMPLES = (0, 1, 2, 4, 8, 16, 32)  # n, as in Xie et al.
HELD_OUT = 10_000_000  # a step that training never reaches, whose documents measure it


def pretraining_mixture(kind: str) -> Mixture:
    """The mixture that a kind of pretraining draws its documents from.

    Raises:
        ValueError: a kind that is not one of PRETRAINING.
    """
    if kind not in PRETRAINING:
        raise ValueError(f"kind is {kind!r}; known are {', '.join(PRETRAINING)}")
    change = {"mixture": lambda world: world, "one concept": one_concept, "random transitions": random_transitions}
    return change[kind](ginc()).mixture()


def documents(mixture: Mixture, seed: int) -> Callable[[int], Batch]:
    """Fresh documents at every step, as the training loop takes them: inputs, targets and weights, each (B, T)."""

    def at(step: int) -> Batch:
        generator = torch.Generator().manual_seed(seed * 100_000_007 + step)
        tokens, _ = sample(mixture, BATCH, LENGTH + 1, generator)  # (B, T + 1)
        return tokens[:, :-1], tokens[:, 1:], torch.ones(BATCH, LENGTH)

    return at


def small_gpt(seed: int = 0) -> GPT:
    """A GPT of 0.45 million parameters over GINC's vocabulary, with drawn weights."""
    return GPT(GPTConfig(VOCABULARY, **SHAPE)).initialise(seed)


class Measurement:
    """What the record of a training says: loss on held-out documents, the Bayes predictor's, accuracy in context."""

    def __init__(self, mixture: Mixture, seed: int):
        self.inputs, self.targets, _ = documents(mixture, seed)(HELD_OUT)  # (B, T) each
        bayes = predict(mixture, self.inputs).next_token.log()  # (B, T, V)
        self.bayes = F.nll_loss(bayes.flatten(0, 1), self.targets.flatten()).item()
        self.prompts = prompts(ginc(), 200, 16, 5, torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def __call__(self, model: GPT) -> dict[str, float]:
        """Losses in nats a token; accuracies after 0 and 16 examples of length 5, in [0, 1]."""
        model.eval()
        loss = F.cross_entropy(model(self.inputs).flatten(0, 1), self.targets.flatten()).item()
        accuracy = correct(gpt_predictions(model, self.prompts), self.prompts).double().mean(0)  # (17,)
        return {"held_out": loss, "bayes": self.bayes, "icl_0": accuracy[0].item(), "icl_16": accuracy[-1].item()}


def train_gpt(kind: str, steps: int | None = None, seed: int = 0, folder: Path | None = None, **options) -> tuple:
    """Train a small GPT on documents of one kind of pretraining.

    Args:
        kind: one of PRETRAINING.
        steps: None is the number in PRETRAINING.
        seed: of weights and documents.
        folder: of the checkpoint from which a stopped training goes on; None keeps none.
        options: of iclnb.training.loop.train.

    Returns:
        The model in eval mode, and the record of its training.
    """
    mixture, steps = pretraining_mixture(kind), PRETRAINING[kind] if steps is None else steps
    model = small_gpt(seed)
    record = train(
        model,
        documents(mixture, seed),
        Schedule(steps, matrix_lr=0.015, other_lr=0.003, decay=0.3),
        folder=folder,
        resume=folder is not None,
        identity={"kind": kind, "seed": seed},
        measure=Measurement(mixture, seed),
        measure_every=50,
        **options,
    )
    return model, record


def icl_answers(model: GPT, k: int, B: int = 2500) -> tuple[Tensor, Tensor]:
    """Whether a GPT answers prompts rightly after 0, 1, ... 32 demonstrations, (B, 33) bool, and their concepts (B,).

    The prompts are the same for all models. B is Xie et al.'s (appendix F.1).
    """
    parts = []
    for part in range(0, B, 500):  # memory for no more
        asked = prompts(ginc(), min(500, B - part), 32, k, torch.Generator().manual_seed(1000 * k + part))
        parts.append((correct(gpt_predictions(model, asked), asked), asked.concept))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def icl_records(kind: str, k: int, right: Tensor, concept: Tensor) -> tuple[list[dict], dict]:
    """Records of learning in context by one training.

    Args:
        kind: one of PRETRAINING.
        k: length of the examples.
        right, concept: as `icl_answers` gives them.

    Returns:
        A row for each n: accuracy in [0, 1] on all prompts, on those of concept 0, and on the others. And the gain, the
        mean accuracy after 16 to 32 demonstrations minus that after none, with its interval over prompts.
    """
    run = {"pretraining": kind, "k": k}
    groups = {"accuracy": concept >= 0, "of_concept_0": concept == 0, "of_others": concept > 0}
    curve = [
        run | {"n": n} | {name: right[group, n].double().mean().item() for name, group in groups.items()}
        for n in NUMBERS_OF_EXAMPLES
    ]
    return curve, run | intervals.difference(right[:, 16:].double().mean(1), right[:, 0]).entry()
