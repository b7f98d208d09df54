"""How alike are in-context learning (ICL) and fine-tuning (FT)? The paper's four measures, and their controls.

ZSL is zero-shot: the model without demonstrations, before fine-tuning. FT is the fine-tuned model, without them too.
Letters: n examples, L layers, H heads, C width, k demonstrations. Measures with an (n, L) result are averaged over
examples, then over layers, by `.mean()`.

Source of every definition: Dai et al. 2023, section 4.2, and compute_sim.py and compute_training_example_attn.py of the
official code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iclnb.experiment.predict import Internals, Predictions

KENDALL_EXAMPLES = 100  # the paper ranks demonstrations for the first 100 evaluation examples
TINY = 1e-20
ANGLES = 1e-4  # of a vector's length: what rotary angles, float32 in every dtype, may turn differently further along
DIGITS = 8  # last digits of a dtype by which a vector may differ for no other reason than rounding


@dataclass(frozen=True)
class Rec2FTP:
    """Recall of in-context learning to fine-tuning's predictions.

    Args:
        both: examples that ZSL gets wrong, FT right and ICL right.
        total: examples that ZSL gets wrong and FT right.
    """

    both: int
    total: int

    @property
    def percent(self) -> float:
        """100 * both / total; not a number where fine-tuning corrected nothing, since the measure is undefined then."""
        return 100 * self.both / self.total if self.total else float("nan")


def rec2ftp(zsl: Predictions, ft: Predictions, icl: Predictions) -> Rec2FTP:
    """Of the predictions that fine-tuning corrects, the share that in-context learning corrects too.

    Args:
        zsl, ft, icl: predictions for the same examples.
    """
    _same_examples(zsl, ft, icl)
    corrected = ~zsl.correct & ft.correct  # (n,)
    return Rec2FTP(both=int((corrected & icl.correct).sum()), total=int(corrected.sum()))


def sim_aou(zsl: Internals, ft: Internals, icl: Internals) -> Tensor:
    """Similarity of attention-output updates, cos(h_ICL - h_ZSL, h_FT - h_ZSL), each h at unit length first.

    Args:
        zsl, ft, icl: internals recorded for the same examples.

    Returns:
        (n, L) float64 in [-1, 1].
    """
    return _cosine(update(zsl, icl), update(zsl, ft))


def sim_aou_random(
    zsl: Internals, icl: Internals, seed: int, zero_mean: bool = False, rows: Sequence[int] | None = None
) -> Tensor:
    """Control for sim_aou: the update of fine-tuning replaced by noise.

    Args:
        zsl, icl: internals recorded for the same examples.
        seed: of the noise.
        zero_mean: noise uniform in [-1, 1) instead of the paper's [0, 1), whose mean is not zero.
        rows: numbers of the examples, which choose their noise; None is 0 .. n - 1.

    Returns:
        (n, L) float64 in [-1, 1].
    """
    difference = update(zsl, icl)  # (n, L, C)
    noise = noise_of(range(len(difference)) if rows is None else rows, difference.shape[1:], seed)  # (n, L, C)
    return _cosine(difference, 2 * noise - 1 if zero_mean else noise)


def noise_of(rows: Sequence[int], shape: Sequence[int], seed: int) -> Tensor:
    """Uniform noise in [0, 1), (len(rows), *shape) float64; that of a row depends on the row and the seed alone.

    So an example meets the same noise whichever batch it comes in.
    """
    generator = torch.Generator()
    draws = [
        torch.rand(*shape, dtype=torch.float64, generator=generator.manual_seed(seed + 1_000_003 * r)) for r in rows
    ]
    return torch.stack(draws)


def update(before: Internals, after: Internals) -> Tensor:
    """Change of the attention output between two runs, each output at unit length first, (n, L, C) float64."""
    return F.normalize(after.output.double(), dim=-1) - F.normalize(before.output.double(), dim=-1)


def sim_am(one: Internals, other: Internals) -> Tensor:
    """Similarity of attention maps, cos(a, a'): logits of the recorded position to the query's own tokens, per head.

    The paper's SimAM is sim_am(icl, ft), and its control is sim_am(icl, zsl).

    Returns:
        (n, L) float64 in [-1, 1], averaged over heads.
    """
    pairs = zip(one.scores, other.scores, strict=True)
    return torch.stack([_cosine(a.double(), b.double()).mean(-1) for a, b in pairs])  # (n, L)


def sim_am_update(zsl: Internals, ft: Internals, icl: Internals) -> Tensor:
    """Similarity of the *updates* of attention maps, cos(a_ICL - a_ZSL, a_FT - a_ZSL), per head.

    Where ICL updates nothing the similarity is 0. With rotary positions that is so in the first layer: its logits
    depend on the tokens and their distances alone, and a_ICL and a_ZSL differ by no more than `rounding`.

    Returns:
        (n, L) float64 in [-1, 1], averaged over heads.

    Source: Deutch et al. 2024; it is not the paper's SimAM.
    """
    rows, bound = [], max(rounding(zsl.dtype), rounding(icl.dtype))
    for z, f, i in zip(zsl.scores, ft.scores, icl.scores, strict=True):
        z, f, i = z.double(), f.double(), i.double()  # (L, H, own tokens) each
        change = i - z  # (L, H, own tokens)
        moved = change.norm(dim=-1, keepdim=True) > bound * z.norm(dim=-1, keepdim=True)  # (L, H, 1)
        rows.append(_cosine(moved * change, f - z).mean(-1))  # (L,)
    return torch.stack(rows)  # (n, L)


def rounding(dtype: torch.dtype) -> float:
    """Share of its length by which a vector that was computed in a dtype may differ through rounding alone.

    On trained rotary models the first layer's logits differed by up to 5e-6 of their length in float64 and float32,
    5e-3 in float16 and 4e-2 in bfloat16, those of all later layers by 0.15 and more.
    """
    return max(ANGLES, DIGITS * torch.finfo(dtype).eps)


def kendall(
    icl: Internals,
    ft: Internals,
    spans: Sequence[tuple[int, int]],
    queries: Sequence[Tensor],
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Kendall's tau between the orders into which ICL and FT put the demonstrations, for the first 100 examples.

    Args:
        icl: internals of the few-shot run.
        ft: internals of the fine-tuned model.
        spans: token range of each demonstration in the prompt (Prompt.spans).
        queries: query vectors of each demonstration's tokens during fine-tuning (FineTuned.queries).
        seed: of the random scores of the control.
        rows: numbers of the examples, which choose their random scores; None is 0 .. n - 1.

    Returns:
        Tau of ICL against FT, and of ICL against random scores: two (min(n, 100), L) float64 tensors in [-1, 1].

    Raises:
        ValueError: fewer than two demonstrations, or spans and queries of different numbers.
    """
    if len(spans) != len(queries):
        raise ValueError(f"spans has {len(spans)} demonstrations and queries {len(queries)}; they must be the same")
    if len(spans) < 2:
        raise ValueError(f"there are {len(spans)} demonstrations; an order needs at least 2")
    by_icl, by_ft = icl_shares(icl, spans), ft_shares(ft, queries)  # (n, L, k) each
    rows = range(len(by_icl)) if rows is None else rows[:KENDALL_EXAMPLES]
    by_chance = noise_of(rows, by_icl.shape[1:], seed)  # (n, L, k)
    return kendall_tau(by_icl, by_ft), kendall_tau(by_icl, by_chance)


def all_measures(
    zsl: Internals,
    ft: Internals,
    icl: Internals,
    spans: Sequence[tuple[int, int]],
    queries: Sequence[Tensor],
    rows: Sequence[int],
    seed: int = 0,
) -> dict[str, Tensor]:
    """Every measure that is taken example by example, and its controls, for one batch of examples.

    Args:
        zsl, ft, icl: internals of the three runs for the same examples.
        spans, queries: as in kendall; with fewer than two demonstrations there is no kendall.
        rows: numbers of the examples in the evaluation split.
        seed: of the controls.

    Returns:
        Name -> (n, L) float64; "kendall" and its control for those examples alone that are among the first 100.
    """
    found = {
        "sim_aou": sim_aou(zsl, ft, icl),
        "sim_aou_random": sim_aou_random(zsl, icl, seed, rows=rows),
        "sim_aou_random_zero_mean": sim_aou_random(zsl, icl, seed, zero_mean=True, rows=rows),
        "sim_am": sim_am(icl, ft),
        "sim_am_zsl": sim_am(icl, zsl),
        "sim_am_update": sim_am_update(zsl, ft, icl),
    }
    ranked = [i for i, row in enumerate(rows) if row < KENDALL_EXAMPLES]
    if len(spans) >= 2 and ranked:
        numbers = [rows[i] for i in ranked]
        found["kendall"], found["kendall_random"] = kendall(icl[ranked], ft[ranked], spans, queries, seed, numbers)
    return found


def icl_shares(icl: Internals, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Share of each demonstration in what the recorded position looks at, (min(n, 100), L, k) float64.

    Logits summed over heads, softmax over the demonstrations' tokens (no `<s>`, no separators), summed within each.
    """
    logits = icl.prefix_scores[:KENDALL_EXAMPLES].double()  # (n, L, P)
    tokens = torch.cat([torch.arange(*span) for span in spans])  # (tokens of all demonstrations,)
    return _sum_within(logits[..., tokens].softmax(-1), [stop - start for start, stop in spans])


def ft_shares(ft: Internals, queries: Sequence[Tensor]) -> Tensor:
    """Share of each demonstration in what fine-tuning wrote for the recorded position, (min(n, 100), L, k) float64.

    Inner products of the position's query vector with those of the training tokens, softmax, summed within each.
    """
    q = ft.query[:KENDALL_EXAMPLES].double()  # (n, L, C)
    trained = torch.cat(list(queries)).double()  # (tokens of all demonstrations, L, C)
    logits = torch.einsum("nlc,tlc->nlt", q, trained)  # (n, L, tokens)
    return _sum_within(logits.softmax(-1), [len(rows) for rows in queries])


def _sum_within(weights: Tensor, lengths: Sequence[int]) -> Tensor:
    """(n, L, tokens) summed over consecutive runs of tokens: (n, L, k)."""
    return torch.stack([run.sum(-1) for run in weights.split(list(lengths), dim=-1)], dim=-1)


def kendall_tau(one: Tensor, other: Tensor) -> Tensor:
    """Kendall's tau-b along the last dimension of two (n, L, k) tensors, (n, L) float64 in [-1, 1].

    Pairs that one of them ties count for neither side; where one ties all, or holds a NaN, tau is NaN.
    """
    first, second = torch.triu_indices(one.shape[-1], one.shape[-1], offset=1)  # (pairs,) each
    a, b = (_sign(x.double()[..., first] - x.double()[..., second]) for x in (one, other))  # (n, L, pairs) each
    return (a * b).sum(-1) / (a.abs().sum(-1) * b.abs().sum(-1)).sqrt()  # (n, L)


def _sign(x: Tensor) -> Tensor:
    """-1, 0 or 1; NaN stays what it is, where torch makes it 0."""
    return torch.where(x.isnan(), x, x.sign())


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine along the last dimension; 0 where a vector is zero, as in the official code."""
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + TINY)


def _same_examples(*runs: Predictions) -> None:
    if len({len(run.labels) for run in runs}) != 1 or not all(torch.equal(run.labels, runs[0].labels) for run in runs):
        raise ValueError("the predictions are not for the same examples: their gold labels differ")
