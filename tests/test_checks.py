"""The checks of the exercises: printed solutions pass, known mistakes are named, nothing a reader writes stops them."""

import re
from pathlib import Path

import nbformat
import pytest
import torch
from matplotlib import pyplot as plt

from iclnb import checks
from iclnb.attention import linear_attention

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOLUTION = re.compile(r"<summary>Solution</summary>.*?```python\n(.*?)```", re.DOTALL)


@pytest.fixture(autouse=True)
def float64():
    """What the notebooks' setup cells set for all of torch and matplotlib, for the time of one test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with plt.rc_context():
        yield
    torch.set_default_dtype(before)
    torch.set_printoptions(profile="default")


# ---------------------------------------------------------------------------------------------------------------------
# Exercises as they stand in the notebooks


def find_exercises():
    """One (setup, stub, solution) for each cell tagged "exercise": source of the setup cell, of it, of its solution."""
    for path in sorted(NOTEBOOKS.rglob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        setup = "\n".join(cell.source for cell in cells if "setup" in cell.metadata.get("tags", []))
        for index, cell in enumerate(cells):
            if "exercise" in cell.metadata.get("tags", []):
                solution = SOLUTION.search(cells[index + 1].source)
                name = re.search(r"def (\w+)", cell.source)[1]
                yield pytest.param(setup, cell.source, solution and solution[1], id=f"{path.stem}-{name}")


@pytest.mark.parametrize("setup, stub, solution", list(find_exercises()))
def test_the_stub_is_not_yet_right_and_the_printed_solution_is(setup, stub, solution, capsys):
    assert solution, "the cell after an exercise holds its solution, in a <details> with a python block"
    call = stub.splitlines()[-1]
    assert call.startswith("checks."), "the last line of an exercise calls its check"
    namespace = {}
    exec(setup, namespace)
    exec(stub, namespace)
    assert capsys.readouterr().out.startswith("Not yet: the function returns nothing so far; it should return ")
    exec(f"{solution}\n{call}", namespace)
    assert capsys.readouterr().out.startswith("Right: ")


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes that readers make, and a part of what they are told


def one_hot(labels):
    return torch.nn.functional.one_hot(labels, 3)


def descend(W0, X, Y, lr, keys=lambda i: slice(0, i), sign=1, use_batch=False):
    E = torch.zeros(len(X), len(W0))
    batch = -lr * (X @ W0.T - Y)
    for i in range(len(X)):
        values = batch if use_batch else E
        E[i] = -lr * (W0 @ X[i] + sign * (X[i] @ X[keys(i)].T) @ values[keys(i)] - Y[i])
    return E


def tril(T, eta, diagonal=-1):
    lag = torch.arange(T)[:, None] - torch.arange(T)
    return (eta ** lag.double()).tril(diagonal)


def softmax(q, k, scale=None, masked=True):
    scores = q @ k.T * (scale or q.shape[1] ** -0.5)
    return scores.masked_fill(torch.ones(len(q), len(q)).triu(1).bool() & masked, -torch.inf).softmax(1)


def percent(of, among):
    return 100 * of[among].double().mean()


def cosine(a, b, dim=-1):
    return torch.cosine_similarity(a, b, dim=dim).mean()


MISTAKES = [
    (checks.cross_entropy_errors, lambda Y, c, lr: lr * (Y.softmax(1) - one_hot(c)), "the sign is wrong"),
    (checks.cross_entropy_errors, lambda Y, c, lr: Y.softmax(1) - one_hot(c), "the gradient itself"),
    (checks.cross_entropy_errors, lambda Y, c, lr: -lr * Y.softmax(1), "the labels are missing"),
    (checks.cross_entropy_errors, lambda Y, c, lr: -lr * (Y - one_hot(c)), "the softmax is missing"),
    (checks.cross_entropy_errors, lambda Y, c, lr: -lr * (Y.softmax(1) - one_hot(c)) / len(Y), "the mean over"),
    (checks.cross_entropy_errors, lambda Y, c, lr: -lr * (Y.softmax(0) - one_hot(c)), "over the examples"),
    (checks.cross_entropy_errors, lambda Y, c, lr: -lr * (Y.softmax(1) - one_hot(c)).T, "transposed shape, (3, 5)"),
    (checks.cross_entropy_errors, lambda Y, c, lr: -2 * lr * (Y.softmax(1) - one_hot(c)), "2 times what it should be"),
    (checks.cross_entropy_errors, lambda Y, c, lr: Y.sub_(1).softmax(1), "one of its arguments in place"),
    (checks.sequential_errors, lambda W0, X, Y, lr: -lr * (X @ W0.T - Y), "that is the batch order"),
    (checks.sequential_errors, lambda *a: descend(*a, sign=-1), "you subtracted the attention"),
    (checks.sequential_errors, lambda *a: descend(*a, use_batch=True), "your values are the batch error signals"),
    (
        checks.sequential_errors,
        lambda W0, X, Y, lr: (E := -lr * (X @ W0.T - Y)) - lr * linear_attention(X, X, E),
        "attends to itself",
    ),
    (checks.sequential_errors, lambda W0, X, Y, lr: -descend(W0, X, Y, lr) / lr, "these are the gradients"),
    (checks.sequential_errors, lambda W0, X, Y, lr: descend(W0, X, Y, lr).T, "transposed shape, (2, 4)"),
    (checks.sequential_errors, lambda *a: descend(*a, keys=lambda i: slice(i - 1, i)), "E[2] is the first part"),
    (checks.implied_targets, lambda W, K, V, lr: V / lr, "what the layer says already"),
    (checks.implied_targets, lambda W, K, V, lr: K @ W.T + lr * V, "you multiplied by lr"),
    (checks.implied_targets, lambda W, K, V, lr: K @ W.T + V, "lr is missing"),
    (checks.implied_targets, lambda W, K, V, lr: K @ W.T - V / lr, "the sign of v_i is wrong"),
    (checks.implied_targets, lambda W, K, V, lr: K @ W + V / lr, "W_ZSL is transposed"),
    (checks.implied_targets, lambda W, K, V, lr: W @ K + V / lr, "stops with RuntimeError"),
    (checks.demonstration_share, lambda d, q: d.exp().sum(1) / q.exp().sum(1), "the ratio of the two masses"),
    (checks.demonstration_share, lambda d, q: torch.cat([d, q], 1).softmax(1)[:, 5:].sum(1), "the query's share"),
    (checks.demonstration_share, lambda d, q: d.sum(1) / (d.sum(1) + q.sum(1)), "you summed the scores"),
    (checks.demonstration_share, lambda d, q: d.logsumexp(1) - q.logsumexp(1), "lam is the sigmoid of it"),
    (checks.demonstration_share, lambda d, q: torch.full((3,), 5 / 7), "you counted tokens"),
    (checks.demonstration_share, lambda d, q: torch.full((3,), 0.5), "take one softmax over all scores"),
    (
        checks.demonstration_share,
        lambda d, q: d.exp().sum(1) / (d.exp().sum(1) + q.exp().sum(1)),
        "right for small scores, but exp overflows",
    ),
    (checks.momentum_weights, lambda T, eta: tril(T, eta).T, "the matrix is transposed"),
    (checks.momentum_weights, lambda T, eta: tril(T, eta, 0), "the diagonal must be zero"),
    (checks.momentum_weights, lambda T, eta: tril(T, eta) / eta, "the powers are one too low"),
    (checks.momentum_weights, lambda T, eta: tril(T, eta) + tril(T, eta).T, "positions after t have weight too"),
    (checks.momentum_weights, lambda T, eta: tril(T, eta, 0) + tril(T, eta).T, "positions from t on have weight"),
    (checks.momentum_weights, lambda T, eta: (1 - eta) * tril(T, eta), "you multiplied by 1 - eta"),
    (checks.combined_weights, lambda q, k, eta: softmax(q, k), "the weights of momentum are missing"),
    (checks.combined_weights, lambda q, k, eta: tril(5, eta), "the softmax weights are missing"),
    (checks.combined_weights, lambda q, k, eta: softmax(q, k, masked=False) + tril(5, eta), "the softmax looks ahead"),
    (checks.combined_weights, lambda q, k, eta: softmax(q, k, scale=1) + tril(5, eta), "the scores are not scaled"),
    (
        checks.combined_weights,
        lambda q, k, eta: (A := softmax(q, k) + tril(5, eta)) / A.sum(1, keepdim=True),
        "you normalised the rows",
    ),
    (
        checks.combined_weights,
        lambda q, k, eta: (1 - eta) * softmax(q, k) + eta * tril(5, eta),
        "this is a weighted mean",
    ),
    (checks.recall_to_icl, lambda z, f, i: percent(i, ~z & f), "this is Rec2FTP itself"),
    (checks.recall_to_icl, lambda z, f, i: percent(f, i), "the examples that ZSL gets right are in it"),
    (checks.recall_to_icl, lambda z, f, i: percent(f, ~z), "this is over all that ZSL gets wrong"),
    (checks.recall_to_icl, lambda z, f, i: percent(f, z & i), "you start from what ZSL gets right"),
    (checks.recall_to_icl, lambda z, f, i: 100 * (~z & f & i).double().mean(), "a share of all examples"),
    (checks.recall_to_icl, lambda z, f, i: percent(f, ~z & i) / 100, "a percentage was asked for"),
    (checks.recall_to_icl, lambda z, f, i: percent(f, ~z & i).item(), "is a float; it should be a tensor"),
    (checks.attention_update_similarity, lambda z, f, i: cosine(i, f), "the paper's SimAM"),
    (
        checks.attention_update_similarity,
        lambda z, f, i: cosine((i - z).ravel(), (f - z).ravel()),
        "all heads together",
    ),
    (checks.attention_update_similarity, lambda z, f, i: cosine(i - z, f - z, dim=0), "over the heads (dim 0)"),
    (checks.attention_update_similarity, lambda z, f, i: cosine(i - z, f), "subtracted from a_ft too"),
    (checks.attention_update_similarity, lambda z, f, i: cosine(i, f - z), "subtracted from a_icl too"),
    (checks.attention_update_similarity, lambda z, f, i: cosine(i - z, z - f), "the wrong sign"),
    (
        checks.attention_update_similarity,
        lambda z, f, i: cosine((i - z).softmax(-1), (f - z).softmax(-1)),
        "there is a softmax in it",
    ),
]


@pytest.mark.parametrize("check, answer, told", MISTAKES, ids=lambda x: getattr(x, "__name__", x))
def test_a_mistake_is_named(check, answer, told, capsys):
    check(answer)
    said = capsys.readouterr().out
    assert said.startswith("Not yet: ") and told in said and said.endswith(".\n") and said.count("\n") == 1


EXERCISE_CHECKS = sorted({check for check, _, _ in MISTAKES}, key=lambda check: check.__name__)


@pytest.mark.parametrize("check", EXERCISE_CHECKS)
@pytest.mark.parametrize(
    "answer, told",
    [
        (lambda *a: ..., "the function returns nothing so far"),
        (lambda *a: 0.5, "is a float; it should be a tensor"),
        (lambda *a: torch.zeros(7, 8, 9), "has shape (7, 8, 9)"),
        (lambda: None, "your function stops with TypeError"),
        (lambda *a: 1 / 0, "your function stops with ZeroDivisionError: division by zero."),
        (lambda *a: [][0], "your function stops with IndexError"),
    ],
)
def test_whatever_a_reader_writes_the_check_answers_in_one_line(check, answer, told, capsys):
    check(answer)
    said = capsys.readouterr().out
    assert said.startswith("Not yet: ") and told in said and said.count("\n") == 1


def test_numbers_that_are_wrong_in_no_known_way_are_described():
    right = torch.arange(12.0).view(3, 4)
    assert checks.describe_difference(right / 0, right, "A") == "A is not finite: it holds inf or NaN"
    assert checks.describe_difference(-right, right, "A") == "A is -1 times what it should be"
    assert checks.describe_difference(right[:, :3].T, right[:, :3], "A") == "A is transposed"
    assert "A[1] is the first part" in checks.describe_difference(right + torch.tensor([[0], [1], [0]]), right, "A")
    assert "by up to 3" in checks.describe_difference(right + torch.tensor([3.0, -2, 1, 2]), right, "A")


def test_float32_answers_count():
    right = torch.rand(3, 4)
    assert checks.find_fault(lambda: right.float(), (), right, "A", "(3, 4)", []) is None


# ---------------------------------------------------------------------------------------------------------------------
# assert_agree


def test_agreeing_ways_are_printed(capsys):
    a = torch.rand(2, 3)
    checks.assert_agree(loop=a, matrix=a + 1e-12, module=a.clone())
    assert capsys.readouterr().out == "loop = matrix = module, shape (2, 3), to 1e-10\n"


@pytest.mark.parametrize(
    "b, complaint",
    [
        (torch.ones(2, 3, dtype=torch.float64) + 1e-6, r"loop and matrix differ by up to 1e-06; 1e-10 is allowed"),
        (torch.ones(3), r"loop has shape \(2, 3\), matrix has shape \(3,\)"),  # no broadcasting
        (torch.full((2, 3), torch.nan), "differ by up to nan"),
    ],
)
def test_ways_that_differ_stop_the_notebook(b, complaint):
    with pytest.raises(AssertionError, match=complaint):
        checks.assert_agree(loop=torch.ones(2, 3), matrix=b)


def test_one_way_alone_is_no_comparison():
    with pytest.raises(ValueError, match="loop alone"):
        checks.assert_agree(loop=torch.ones(2))
