"""Several processes at one training: which this is, its part of each batch, and what all of them hold together."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator


def place(accelerator: "Accelerator | None") -> tuple[int, int]:
    """Which process this is, and of how many."""
    return (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)


def share(
    batches: Callable[[int], tuple[Tensor, ...]], accelerator: "Accelerator | None"
) -> Callable[[int], tuple[Tensor, ...]]:
    """This process's part of each batch: of N processes, process i takes rows i, i + N, i + 2 N, ...

    What keeps its place by itself (`load_state_dict`) is given back: it reads this process's rows alone.
    """
    rank, processes = place(accelerator)
    if hasattr(batches, "load_state_dict"):
        return batches
    return lambda step: tuple(rows[rank::processes] for rows in batches(step))


def total(x: Tensor, accelerator: "Accelerator | None") -> Tensor:
    """The sum over all processes of a number, ()."""
    return x if accelerator is None else accelerator.reduce(x, "sum")


def gather(thing: dict, accelerator: "Accelerator | None") -> list[dict]:
    """What all processes hold, in their order."""
    if accelerator is None:
        return [thing]
    from accelerate.utils import gather_object

    return gather_object([thing])
