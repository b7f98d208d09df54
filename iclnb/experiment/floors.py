"""What the measures of iclnb.experiment.compare give by chance: the floor that a similarity has to be read against.

Each stand-in takes the place of the fine-tuned model's internals, and the measure is taken by the same formula. The
ceiling, fine-tuning that does to the model exactly what the demonstrations do, is 1 for all of them.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from iclnb.experiment import compare
from iclnb.experiment.internals import Internals, Maps

STAND_INS = {
    "random state": "a vector of random direction, as long as FT's state",
    "random update": "ZSL's state, moved as far as FT moves it in a random direction",
    "another query": "the state that FT has at another query",
}
REFERENCES = 16  # examples whose states stand in for those of others


def measures_with_floors(
    zsl: Internals,
    ft: Internals,
    icl: Internals,
    spans: Sequence[tuple[int, int]],
    queries: Sequence[Tensor],
    references: Internals | None,
    rows: Sequence[int],
    seed: int = 0,
) -> dict[str, Tensor]:
    """Every measure that is taken example by example, the paper's controls, and the floors, for one batch of examples.

    Args:
        zsl, ft, icl: internals of the three runs for the same examples.
        spans, queries: as in compare.kendall; with fewer than two demonstrations there is no kendall.
        references: FT's internals at the first examples of the evaluation split, up to REFERENCES; None, where there
            are fewer than two, leaves out "another query".
        rows: numbers of the examples in the evaluation split.
        seed: of the noise.

    Returns:
        Name -> (n, L), float64 on a CPU and else as compare.wide says. A floor's name is the measure's, a colon, and
        one of STAND_INS, as in "sim_am: another query"; "sim_aou: formula" is random_state_floor. Those of kendall are
        for the examples alone that are among the first 100.
    """
    found = measures(zsl, ft, icl, spans, queries, rows) | {
        "sim_aou_random": compare.sim_aou_random(zsl, icl, seed, rows=rows),
        "sim_aou_random_zero_mean": compare.sim_aou_random(zsl, icl, seed, zero_mean=True, rows=rows),
        "sim_aou: formula": random_state_floor(zsl, icl),
        "sim_am_zsl": compare.sim_am(icl, zsl),
    }
    for level in compare.LEVELS:
        if f"kendall_{level}" in found:
            ranked, numbers = _ranked(rows)
            found[f"kendall_{level}_random"] = compare.kendall_random(icl[ranked], spans, level, seed, numbers)
    for name, stand_in in stand_ins(zsl, ft, references, rows, seed).items():
        likeness = measures(zsl, stand_in, icl, spans, queries, rows)
        found |= {f"{measure}: {name}": values for measure, values in likeness.items()}
    return found


def measures(
    zsl: Internals,
    ft: Internals,
    icl: Internals,
    spans: Sequence[tuple[int, int]],
    queries: Sequence[Tensor],
    rows: Sequence[int],
) -> dict[str, Tensor]:
    """SimAOU in its three forms, SimAM, SimAM of updates, and Kendall at both levels, by name; as in the whole."""
    found = {
        "sim_aou": compare.sim_aou(zsl, ft, icl),
        "sim_aou_unnormalised": compare.sim_aou(zsl, ft, icl, "unnormalised"),
        "sim_aou_projected": compare.sim_aou(zsl, ft, icl, "projected"),
        "sim_am": compare.sim_am(icl, ft),
        "sim_am_update": compare.sim_am_update(zsl, ft, icl),
    }
    ranked, _ = _ranked(rows)
    if len(spans) >= 2 and ranked:
        for level in compare.LEVELS:
            found[f"kendall_{level}"] = compare.kendall(icl[ranked], ft[ranked], spans, queries, level)
    return found


def random_state_floor(zsl: Internals, icl: Internals) -> Tensor:
    """What sim_aou gives in expectation for a random unit vector in the place of h_FT, (n, L) float64.

    Both differences subtract h_ZSL, so they are alike whatever h_FT is: sqrt(1 - cos(h_ICL, h_ZSL)) / 2, but for terms
    that vanish as the width grows.
    """
    cosine = F.cosine_similarity(compare.wide(icl.output), compare.wide(zsl.output), dim=-1)  # (n, L)
    return (1 - cosine).clamp(min=0).sqrt() / 2


def stand_ins(
    zsl: Internals, ft: Internals, references: Internals | None, rows: Sequence[int], seed: int
) -> dict[str, Internals]:
    """The internals that take FT's place, by a name of STAND_INS; arguments as in measures_with_floors.

    The noise of an example depends on its number and the seed alone, so that it is the same in every batch.
    """
    found = {
        "random state": replace(
            ft,
            output=_turned(None, ft.output, rows, seed),
            scores=_turned_maps(None, ft.scores, rows, seed),
            query=_turned(None, ft.query, rows, seed + 1),
        ),
        "random update": replace(
            ft,
            output=_turned(zsl.output, ft.output, rows, seed + 2),
            scores=_turned_maps(zsl.scores, ft.scores, rows, seed + 2),
            query=_turned(zsl.query, ft.query, rows, seed + 3),
        ),
    }
    if references is not None:
        m = len(references.output)
        found["another query"] = references[[(row + 1) % m for row in rows]]
    return found


def _turned(origin: Tensor | None, end: Tensor, rows: Sequence[int], seed: int) -> Tensor:
    """A vector as far from its origin (None: 0) as `end` is, in a random direction; (n, ..., C) each."""
    return _moved(origin, end, compare.noise_of(rows, end.shape[1:], seed, normal=True, device=end.device))


def _moved(origin: Tensor | None, end: Tensor, noise: Tensor) -> Tensor:
    """Vectors (..., C) as far from their origins as their ends are, in the noise's directions."""
    end = compare.wide(end)  # (..., C)
    origin = torch.zeros_like(end) if origin is None else compare.wide(origin)  # (..., C)
    return origin + (end - origin).norm(dim=-1, keepdim=True) * F.normalize(noise, dim=-1)


def _turned_maps(
    origins: Sequence[Tensor] | None, ends: Sequence[Tensor], rows: Sequence[int], seed: int
) -> Sequence[Tensor]:
    """_turned for maps (L, H, own tokens) of unlike length, one an example."""
    drawn = [
        compare.noise_of([row], end.shape, seed, normal=True, device=end.device)[0]
        for end, row in zip(ends, rows, strict=True)
    ]
    if isinstance(ends, Maps):
        T = ends.padded.shape[-1]
        noise = torch.stack([F.pad(one, (T - one.shape[-1], 0)) for one in drawn])  # (n, L, H, T)
        return Maps(_moved(None if origins is None else origins.padded, ends.padded, noise), ends.lengths)
    return [_moved(*trio) for trio in zip(origins or [None] * len(drawn), ends, drawn, strict=True)]


def _ranked(rows: Sequence[int]) -> tuple[list[int], list[int]]:
    """Which of a batch's examples are among the first 100, and their numbers."""
    ranked = [i for i, row in enumerate(rows) if row < compare.KENDALL_EXAMPLES]
    return ranked, [rows[i] for i in ranked]
