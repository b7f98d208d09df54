"""How alike are in-context learning (ICL) and fine-tuning (FT)? The paper's four measures, and its controls.

What each measure gives by chance is in iclnb.experiment.floors.

ZSL is zero-shot: the model without demonstrations, before fine-tuning. FT is the fine-tuned model, without them too.
Letters: n examples, L layers, H heads, C width, k demonstrations. Measures with an (n, L) result are averaged over
examples, then over layers, by `.mean()`.

Source of every definition: Dai et al. 2023, section 4.2, and compute_sim.py and compute_training_example_attn.py of the
official code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor

from iclnb.experiment.internals import Internals, aligned
from iclnb.experiment.predict import Predictions

KENDALL_EXAMPLES = 100  # the paper ranks demonstrations for the first 100 evaluation examples
FORMS = ("normalised", "unnormalised", "projected")  # of an update of the attention output
LEVELS = ("tokens", "demonstrations")  # that Kendall's tau ranks
LONG = 512  # entries, of which all pairs are no longer cheap
PAIRS = {"cpu": 2**21, "cuda": 2**25}  # that are held at once
WIDE = {"cpu": torch.float64}  # in which a measure is taken where the internals are; elsewhere float32
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


def sim_aou(zsl: Internals, ft: Internals, icl: Internals, form: str = "normalised") -> Tensor:
    """Similarity of attention-output updates, cos(h_ICL - h_ZSL, h_FT - h_ZSL).

    Args:
        zsl, ft, icl: internals recorded for the same examples.
        form: how an update is taken, one of FORMS, as in `update`.

    Returns:
        (n, L) float64 in [-1, 1].
    """
    return _cosine(update(zsl, icl, form), update(zsl, ft, form))


def sim_aou_random(
    zsl: Internals, icl: Internals, seed: int, zero_mean: bool = False, rows: Sequence[int] | None = None
) -> Tensor:
    """The paper's control for sim_aou: the update of fine-tuning replaced by noise.

    It keeps neither h_ZSL, which both updates subtract, nor the update's place beside it, and so lies near 0 whatever
    the states are. What a state gives by chance is floors.random_state_floor.

    Args:
        zsl, icl: internals recorded for the same examples.
        seed: of the noise.
        zero_mean: noise uniform in [-1, 1) instead of the paper's [0, 1), whose mean is not zero.
        rows: numbers of the examples, which choose their noise; None is 0 .. n - 1.

    Returns:
        (n, L) float64 in [-1, 1].
    """
    difference = update(zsl, icl)  # (n, L, C)
    rows = range(len(difference)) if rows is None else rows
    noise = noise_of(rows, difference.shape[1:], seed, device=difference.device)  # (n, L, C)
    return _cosine(difference, 2 * noise - 1 if zero_mean else noise)


def wide(x: Tensor) -> Tensor:
    """x as a measure is taken of it: float64 on a CPU, which defines the measures; float32 where a GPU takes them."""
    return x.to(WIDE.get(x.device.type, torch.float32))


def noise_of(
    rows: Sequence[int], shape: Sequence[int], seed: int, normal: bool = False, device: torch.device | str = "cpu"
) -> Tensor:
    """Noise, `(len(rows), *shape)`, wide, uniform in [0, 1) or normal; a row's depends on row, seed and device alone.

    So an example meets the same noise whichever batch it comes in.
    """
    generator, draw = torch.Generator(device), torch.randn if normal else torch.rand
    how = {"dtype": torch.float64, "device": device}
    return wide(torch.stack([draw(*shape, generator=generator.manual_seed(seed + 1_000_003 * r), **how) for r in rows]))


def update(before: Internals, after: Internals, form: str = "normalised") -> Tensor:
    """Change of the attention output h between two runs, (n, L, C), wide.

    Args:
        before, after: internals recorded for the same examples.
        form: "normalised", each h at unit length first, as in the paper's code; "unnormalised", as in Deutch et al.
            2024, section 3.1; "projected", what of h after is at right angles to h before, so that no two updates are
            alike for the reason alone that they subtract the same state.

    Raises:
        ValueError: another form.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; accepted are {', '.join(map(repr, FORMS))}")
    h, changed = wide(before.output), wide(after.output)  # (n, L, C) each
    if form == "unnormalised":
        return changed - h
    h = F.normalize(h, dim=-1)  # (n, L, C)
    if form == "projected":
        across = changed - (changed * h).sum(-1, keepdim=True) * h  # (n, L, C)
        rest = across.norm(dim=-1, keepdim=True) / changed.norm(dim=-1, keepdim=True)  # (n, L, 1)
        return (rest > DIGITS * torch.finfo(torch.float32).eps) * across  # internals are kept in float32
    return F.normalize(changed, dim=-1) - h


def sim_am(one: Internals, other: Internals) -> Tensor:
    """Similarity of attention maps, cos(a, a'): logits of the recorded position to the query's own tokens, per head.

    The paper's SimAM is sim_am(icl, ft), and its control is sim_am(icl, zsl). Of two queries of unlike length, as in
    floors.stand_ins, the last tokens are compared.

    Returns:
        (n, L) float64 in [-1, 1], averaged over heads.
    """
    pairs = aligned(one.scores, other.scores)
    return torch.cat([_cosine(wide(a), wide(b)).mean(-1) for a, b in pairs])  # (n, L)


def sim_am_update(zsl: Internals, ft: Internals, icl: Internals) -> Tensor:
    """Similarity of the *updates* of attention maps, cos(a_ICL - a_ZSL, a_FT - a_ZSL), per head.

    Where ICL updates nothing the similarity is 0. With rotary positions that is so in the first layer: its logits
    depend on the tokens and their distances alone, and a_ICL and a_ZSL differ by no more than `rounding`.

    Returns:
        (n, L) float64 in [-1, 1], averaged over heads.

    Source: Deutch et al. 2024; it is not the paper's SimAM.
    """
    rows, bound = [], max(rounding(zsl.dtype), rounding(icl.dtype))
    for maps in aligned(zsl.scores, ft.scores, icl.scores):
        z, f, i = map(wide, maps)  # (n or 1, L, H, own tokens) each
        change = i - z  # (n or 1, L, H, own tokens)
        moved = change.norm(dim=-1, keepdim=True) > bound * z.norm(dim=-1, keepdim=True)  # (n or 1, L, H, 1)
        rows.append(_cosine(moved * change, f - z).mean(-1))  # (n or 1, L)
    return torch.cat(rows)  # (n, L)


def rounding(dtype: torch.dtype) -> float:
    """Share of its length by which a vector that was computed in a dtype may differ through rounding alone.

    On trained rotary models the first layer's logits differed by up to 5e-6 of their length in float64 and float32,
    5e-3 in float16 and 4e-2 in bfloat16, those of all later layers by 0.15 and more.
    """
    return max(ANGLES, DIGITS * torch.finfo(dtype).eps)


def kendall(
    icl: Internals, ft: Internals, spans: Sequence[tuple[int, int]], queries: Sequence[Tensor], level: str = "tokens"
) -> Tensor:
    """Kendall's tau between the orders into which ICL and FT put what they learn from, for the first 100 examples.

    Args:
        icl: internals of the few-shot run.
        ft: internals of the fine-tuned model.
        spans: token range of each demonstration in the prompt (Prompt.spans).
        queries: query vectors of each demonstration's tokens during fine-tuning (FineTuned.queries).
        level: what is ranked: the training "tokens", as the paper's text defines it, or the "demonstrations", by the
            sum over their tokens. The official code computes both, and the paper does not say which its table shows.

    Returns:
        (min(n, 100), L) float64 in [-1, 1].

    Raises:
        ValueError: another level, fewer than two demonstrations, or spans and queries of different numbers.
    """
    if len(spans) != len(queries):
        raise ValueError(f"spans has {len(spans)} demonstrations and queries {len(queries)}; they must be the same")
    if len(spans) < 2:
        raise ValueError(f"there are {len(spans)} demonstrations; an order needs at least 2")
    return kendall_tau(icl_shares(icl, spans, level), ft_shares(ft, queries, level))


def kendall_random(
    icl: Internals,
    spans: Sequence[tuple[int, int]],
    level: str = "tokens",
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> Tensor:
    """The paper's control for kendall: tau of ICL's order against random scores.

    Args:
        icl, spans, level: as in kendall.
        seed: of the scores.
        rows: numbers of the examples, which choose their scores; None is 0 .. n - 1.

    Returns:
        (min(n, 100), L) float64 in [-1, 1].
    """
    by_icl = icl_shares(icl, spans, level)  # (n, L, tokens or k)
    rows = range(len(by_icl)) if rows is None else rows[:KENDALL_EXAMPLES]
    return kendall_tau(by_icl, noise_of(rows, by_icl.shape[1:], seed, device=by_icl.device))


def icl_shares(icl: Internals, spans: Sequence[tuple[int, int]], level: str = "demonstrations") -> Tensor:
    """Share of each token or demonstration in what the recorded position looks at, (min(n, 100), L, tokens or k).

    Logits summed over heads, softmax over the demonstrations' tokens (no `<s>`, no separators); float64.
    """
    logits = icl.prefix_scores[:KENDALL_EXAMPLES].double()  # (n, L, P)
    tokens = torch.cat([torch.arange(*span) for span in spans])  # (tokens of all demonstrations,)
    return _at_level(logits[..., tokens].softmax(-1), [stop - start for start, stop in spans], level)


def ft_shares(ft: Internals, queries: Sequence[Tensor], level: str = "demonstrations") -> Tensor:
    """Share of each token or demonstration in what fine-tuning wrote, (min(n, 100), L, tokens or k) float64.

    Inner products of the recorded position's query vector with those of the training tokens, softmax.
    """
    q = wide(ft.query[:KENDALL_EXAMPLES])  # (n, L, C)
    trained = wide(torch.cat(list(queries)))  # (tokens of all demonstrations, L, C)
    logits = torch.einsum("nlc,tlc->nlt", q, trained).double()  # (n, L, tokens); a float32 softmax would make ties
    return _at_level(logits.softmax(-1), [len(rows) for rows in queries], level)


def _at_level(weights: Tensor, lengths: Sequence[int], level: str) -> Tensor:
    """(n, L, tokens) as it is, or summed over consecutive runs of tokens: (n, L, k)."""
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}; accepted are {', '.join(map(repr, LEVELS))}")
    if level == "tokens":
        return weights
    return torch.stack([run.sum(-1) for run in weights.split(list(lengths), dim=-1)], dim=-1)


def kendall_tau(one: Tensor, other: Tensor) -> Tensor:
    """Kendall's tau-b along the last dimension of two (n, L, k) tensors, (n, L) float64 in [-1, 1].

    Pairs that one of them ties count for neither side; where one ties all, or holds a NaN, tau is NaN. It is defined by
    all pairs; of long rankings on a CPU scipy counts them by sorting.
    """
    shape, k, kind = one.shape[:-1], one.shape[-1], one.device.type
    one, other = one.flatten(0, -2).double(), other.flatten(0, -2).double()  # (n * L, k) each
    if k > LONG and kind == "cpu":
        rows = zip(one.numpy(force=True), other.numpy(force=True), strict=True)
        return torch.tensor([scipy.stats.kendalltau(a, b).statistic for a, b in rows]).view(shape)
    first, second = torch.triu_indices(k, k, offset=1, device=one.device)  # (pairs,) each
    taus, at_once = [], max(1, PAIRS.get(kind, PAIRS["cpu"]) // k**2)
    for pair in zip(one.split(at_once), other.split(at_once), strict=True):
        a, b = (_sign(x[:, first] - x[:, second]) for x in pair)  # (some of n * L, pairs) each
        taus.append((a * b).sum(-1) / (a.abs().sum(-1) * b.abs().sum(-1)).sqrt())  # (some of n * L,)
    return torch.cat(taus).view(shape)  # (n, L)


def _sign(x: Tensor) -> Tensor:
    """-1, 0 or 1; NaN stays what it is, where torch makes it 0."""
    return torch.where(x.isnan(), x, x.sign())


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine along the last dimension; 0 where a vector is zero, as in the official code."""
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + TINY)


def _same_examples(*runs: Predictions) -> None:
    if len({run.calibrated for run in runs}) != 1:
        raise ValueError("some of the predictions are calibrated and some are not")
    if len({len(run.labels) for run in runs}) != 1 or not all(torch.equal(run.labels, runs[0].labels) for run in runs):
        raise ValueError("the predictions are not for the same examples: their gold labels differ")
