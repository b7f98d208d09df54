"""What every check needs: that ways to one result agree, and what is wrong with a reader's answer to an exercise."""

import copy
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import update_wrapper
from typing import TypeVar

import torch
from torch import Tensor

Case = Iterator[tuple]  # what an exercise is checked with, as `exercise` reads it
Value = TypeVar("Value")
VARIANT = ContextVar("variant", default=0)  # which inputs a check draws at the moment


class NotYet(AssertionError):
    """An answer is not right; the message is what its check says."""


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


def exercise(
    name: str, shape: str, praise: str, also: Callable[[Callable], str | None] | None = None
) -> Callable[[Callable[[], Case]], Callable]:
    """Makes the check of an exercise out of a generator of inputs, the right result, and known mistakes.

    The generator yields `inputs, right` first: what to call the reader's function with, and what it should return. Then
    `wrong, sentence` for each wrong result that can be recognised: the sentence explains it. `inputs, right, sentence`
    is a harder trial, for functions that pass the first: the sentence is for those that fail it.

    Args:
        name: what the result is called in the exercise.
        shape: its shape in letters, such as "(N, d_out)".
        praise: what a right answer is told.
        also: a last look at a function whose numbers are all right; what is wrong with how it works, or None.

    Returns:
        A function of the reader's function that prints one line, "Right: ..." or "Not yet: ...". It never raises
        because of the answer, unless it is asked to grade it: `strict=True` raises NotYet where the answer is not
        right, and `variant=1, 2, ...` tries it on other inputs than the notebook's, of the same kind.
    """

    def make(case: Callable[[], Case]) -> Callable[..., None]:
        def check(answer: Callable, *, strict: bool = False, variant: int = 0) -> None:
            before = VARIANT.set(variant)
            try:
                fault = grade(answer, name, shape, *case())
                if fault is None and also:
                    fault = also(answer)
            finally:
                VARIANT.reset(before)
            if fault is not None and strict:
                raise NotYet(f"Not yet: {fault}.")
            print(f"Right: {praise}." if fault is None else f"Not yet: {fault}.")

        update_wrapper(check, case)
        del check.__wrapped__  # its signature is not the generator's
        return check

    return make


def grade(answer: Callable, name: str, shape: str, trial: tuple, *others: tuple) -> str | None:
    """What is wrong with a reader's function, in one sentence without a full stop; None when nothing is.

    Args:
        answer: the reader's function.
        name, shape, trial, others: as `exercise` gets them.
    """
    inputs, right = trial
    if fault := find_fault(answer, inputs, right, name, shape, [other for other in others if len(other) == 2]):
        return fault
    harder = (other for other in others if len(other) == 3)
    return next((say for inputs, right, say in harder if find_fault(answer, inputs, right, name, shape, [])), None)


def find_fault(
    answer: Callable, inputs: tuple, right: Tensor, name: str, shape: str, mistakes: list[tuple[Tensor, str]]
) -> str | None:
    """Looks for what is wrong in one trial, from the coarse to the fine; arguments and result as in `grade`."""
    given = copy.deepcopy(inputs)
    try:
        got = answer(*given)
    except (Exception, SystemExit) as error:  # whatever the reader's code does, the notebook goes on
        return f"your function stops with {type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"
    if got is None or got is ...:
        return f"the function returns nothing so far; it should return {name}, {shape}"
    if isinstance(got, int | float) and not isinstance(got, bool) and right.ndim == 0:
        got = torch.tensor(got, dtype=torch.float64)  # a plain number will do where a number was asked for
    if not isinstance(got, Tensor):
        return f"{name} is a {type(got).__name__}; it should be a tensor, {shape}"
    if (got := plain(got)) is None:
        return f"{name} is no ordinary tensor; it should hold real numbers, {shape}"
    if any(isinstance(x, Tensor) and not torch.equal(x, y) for x, y in zip(inputs, given, strict=True)):
        return "the function changes one of its arguments in place; work on a copy (`clone`), or use `W = W + ...`"
    if got.ndim == 2 and got.shape != right.shape and got.shape == right.shape[::-1]:
        return f"{name} has the transposed shape, {tuple(got.shape)}; {shape} is {tuple(right.shape)} here"
    if got.shape != right.shape and not right.ndim:
        return f"{name} has shape {tuple(got.shape)}; it should be a scalar, shape ()"
    if got.shape != right.shape:
        return f"{name} has shape {tuple(got.shape)}; {shape} is {tuple(right.shape)} here"
    if close(got, right):
        return None
    known = (sentence for wrong, sentence in mistakes if close(got, wrong))
    return next(known, None) or describe_difference(got, right, name)


def plain(x: Tensor) -> Tensor | None:
    """Any tensor as an ordinary one of float64, without gradient; None where it is complex, nested or without data."""
    try:
        return None if x.is_complex() or x.is_nested else x.detach().to_dense().to("cpu", torch.float64)
    except RuntimeError:
        return None


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one shape and the same numbers, as far as float32 carries."""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6)


def describe_difference(got: Tensor, right: Tensor, name: str) -> str:
    """One sentence on how a tensor of the right shape differs from the right one."""
    if not got.isfinite().all():
        return f"{name} is not finite: it holds inf or NaN"
    if not got.ndim:
        return f"{name} is off by {(got - right).abs():.3g}"
    factor = ((got * right).sum() / right.square().sum()).item()
    if close(got, factor * right) and abs(factor) > 1e-6:
        return f"{name} is {factor:.4g} times what it should be"
    if got.ndim == 2 and got.shape == got.T.shape and close(got, right.T):
        return f"{name} is transposed"
    rows = [close(a, b) for a, b in zip(got, right, strict=True)]  # one for each row
    if any(rows):
        return f"{name} has the right shape, but {name}[{rows.index(False)}] is the first part of it that is wrong"
    return f"{name} has the right shape and the wrong numbers, by up to {(got - right).abs().max():.3g}"


def randn(*shape: int, seed: int) -> Tensor:
    """Seeded normal numbers in float64, whatever the notebook's default dtype is; others in every variant."""
    generator = torch.Generator().manual_seed(seed + 1000 * VARIANT.get())
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def pick(*values: Value) -> Value:
    """One of some values, the first in the notebook and another in each variant, for what is not drawn."""
    return values[VARIANT.get() % len(values)]
