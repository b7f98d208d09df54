"""What every check needs: that ways to one result agree, and what is wrong with a reader's answer to an exercise."""

from collections.abc import Callable

import torch
from torch import Tensor


def assert_agree(atol: float = 1e-10, **ways: Tensor) -> None:
    """Asserts that several ways to one tensor give the same shape and numbers, and prints that they do.

    Args:
        atol: the largest difference that counts as equal.
        ways: two tensors or more, by the name of the way they were computed.

    Raises:
        AssertionError: two of them differ in shape or numbers; the message says which, and by how much.
    """
    (first, a), *others = ways.items()
    if not others:
        raise ValueError(f"assert_agree got {first} alone; it compares two tensors or more")
    for name, b in others:
        if a.shape != b.shape:
            raise AssertionError(f"{first} has shape {tuple(a.shape)}, {name} has shape {tuple(b.shape)}")
        gap = (a - b).abs().max().item()
        if not gap <= atol:  # true for NaN as well
            raise AssertionError(f"{first} and {name} differ by up to {gap:.2g}; {atol:g} is allowed")
    print(f"{' = '.join(ways)}, shape {tuple(a.shape)}, to {atol:g}")


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one shape and the same numbers, as far as float32 carries."""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6)


def find_fault(
    answer: Callable, inputs: tuple, right: Tensor, name: str, shape: str, mistakes: list[tuple[Tensor, str]]
) -> str | None:
    """Looks for what is wrong with a reader's function, from the coarse to the fine.

    Args:
        answer: the reader's function.
        inputs: what to call it with; tensors among them are copied first.
        right: what it should return.
        name: what the result is called in the exercise.
        shape: its shape in letters, such as "(N, d_out)".
        mistakes: wrong results that can be recognised, each with the sentence that explains it.

    Returns:
        One sentence without a full stop, or None when nothing is wrong.
    """
    copies = tuple(x.clone() if isinstance(x, Tensor) else x for x in inputs)
    try:
        got = answer(*copies)
    except Exception as error:  # whatever the reader's code does, the notebook goes on
        return f"your function stops with {type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"
    if got is None or got is ...:
        return f"the function returns nothing so far; it should return {name}, {shape}"
    if not isinstance(got, Tensor):
        return f"{name} is a {type(got).__name__}; it should be a tensor, {shape}"
    if any(isinstance(x, Tensor) and not torch.equal(x, y) for x, y in zip(inputs, copies, strict=True)):
        return "the function changes one of its arguments in place; work on a copy (`clone`), or use `W = W + ...`"
    if got.ndim == 2 and got.shape != right.shape and got.shape == right.shape[::-1]:
        return f"{name} has the transposed shape, {tuple(got.shape)}; {shape} is {tuple(right.shape)} here"
    if got.shape != right.shape:
        return f"{name} has shape {tuple(got.shape)}; {shape} is {tuple(right.shape)} here"
    if close(got, right):
        return None
    for wrong, sentence in mistakes:
        if close(got, wrong):
            return sentence
    return describe_difference(got, right, name)


def describe_difference(got: Tensor, right: Tensor, name: str) -> str:
    """One sentence on how a tensor of the right shape differs from the right one."""
    if not got.isfinite().all():
        return f"{name} is not finite: it holds inf or NaN"
    factor = ((got * right).sum() / right.square().sum()).item()
    if close(got, factor * right) and abs(factor) > 1e-6:
        return f"{name} is {factor:.4g} times what it should be"
    if got.ndim == 2 and got.shape == got.T.shape and close(got, right.T):
        return f"{name} is transposed"
    rows = [close(a, b) for a, b in zip(got, right, strict=True)]  # one for each row
    if any(rows):
        return f"{name} has the right shape, but {name}[{rows.index(False)}] is the first part of it that is wrong"
    return f"{name} has the right shape and the wrong numbers, by up to {(got - right).abs().max():.3g}"


def say(fault: str | None, praise: str) -> None:
    """Prints the verdict on an exercise."""
    print(f"Right: {praise}." if fault is None else f"Not yet: {fault}.")


def randn(*shape: int, seed: int) -> Tensor:
    """Seeded normal numbers in float64, whatever the notebook's default dtype is."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
