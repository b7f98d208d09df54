"""Checks of the exercise in 00_start_here."""

import torch

from iclnb.teaching.checks.core import Case, exercise, pick


@exercise("labels", "(k,)", "the labels at these places are wrong now, and no other")
def mislabel() -> Case:
    """Checks labels of two classes made wrong at some places, given (labels (k,), places (n,))."""
    labels, places = torch.tensor([1, 1, 0, 1, 0, 0, 1, 0]).roll(pick(0, 1, 2, 5)), torch.tensor([0, 1, 2])

    def wrong_at(places: torch.Tensor) -> torch.Tensor:
        return torch.stack([1 - y if i in places else y for i, y in enumerate(labels)])  # (k,)

    right = wrong_at(places)  # (k,)
    yield (labels, places), right
    yield labels, "no label has changed"
    yield 1 - labels, "every label has changed; only those at `places` should"
    yield labels.index_fill(0, places, 0), "you set the labels to 0; a wrong label is 1 - label"
    yield labels.index_fill(0, places, 1), "you set the labels to 1; a wrong label is 1 - label"
    yield 1 - right, "you changed the labels at the other places"
    others = torch.tensor([6, 1, 3, 4])
    yield (labels, others), wrong_at(others), "right for places 0, 1 and 2, but not for others, such as 6, 1, 3 and 4"
    nowhere = torch.tensor([], dtype=torch.int64)
    yield (labels, nowhere), labels, "right for some places, but where `places` is empty, nothing may change"
    yield (labels, torch.arange(8)), 1 - labels, "right for some places, but not where `places` holds all of them"
