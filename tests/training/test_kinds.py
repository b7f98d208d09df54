"""Kinds of tokens: against a reading of each window by hand, and counts of a text by collections.Counter."""

from collections import Counter, defaultdict

import torch

from iclnb.training.kinds import Trigrams, shown


def some_ids(*shape, top=6, seed=0):
    return torch.randint(0, top, shape, generator=torch.Generator().manual_seed(seed))


def test_what_a_window_has_shown():
    windows = torch.tensor([[1, 2, 3, 1, 2, 2, 3, 4, 4]])
    #                 targets: 2, 3, 1, 2, 2, 3, 4, 4
    assert shown(windows).tolist() == [[0, 0, 1, 2, 1, 2, 0, 1]]
    windows = some_ids(20, 31, top=9)
    for row, found in zip(windows.tolist(), shown(windows).tolist(), strict=True):
        for t, kind in enumerate(found):
            pairs, target = set(zip(row[:t], row[1 : t + 1], strict=True)), row[t + 1]
            assert kind == (2 if (row[t], target) in pairs else target in row[: t + 1])


def test_a_trigram_guesses_what_came_most_often_behind_two_tokens_or_else_behind_one():
    text, windows = some_ids(300), some_ids(20, 9, top=8, seed=1)  # 6 and 7 never occur in the text
    two, one = defaultdict(Counter), defaultdict(Counter)
    ids = text.tolist()
    for a, b, c in zip(ids, ids[1:], ids[2:], strict=False):
        two[a, b][c] += 1
    for b, c in zip(ids, ids[1:], strict=False):
        one[b][c] += 1
    guesses = Trigrams(text, vocab_size=10).best(windows)
    assert guesses.shape == (20, 8) and (guesses >= 0).any() and (guesses == -1).any()
    for row, found in zip(windows.tolist(), guesses.tolist(), strict=True):
        for t, guess in enumerate(found):
            counts = (t and two.get((row[t - 1], row[t]))) or one.get(row[t])
            if counts is None:
                assert guess == -1
            else:
                assert counts[guess] == max(counts.values())
