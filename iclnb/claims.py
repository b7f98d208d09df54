"""What of the paper's comparison shows in the reader's own numbers: a word for each measure and task, then a sentence.

A measure counts as above its control where their 95 % intervals do not overlap. That is stricter than an interval of
the difference, and needs no more than what a record holds.
"""

from collections.abc import Mapping
from typing import Any

import scipy.stats

# Measure -> the control that the paper sets it against, and what it would mean if it lay above that.
CLAIMS = {
    "sim_aou": ("sim_aou_random", "ICL and FT change the attention output in similar directions"),
    "sim_am": ("sim_am_zsl", "ICL's attention maps are closer to FT's than to ZSL's"),
    "kendall": ("kendall_random", "ICL and FT rank the demonstrations in similar orders"),
}
RECALL = "ICL corrects what FT corrects more often than what else ZSL gets wrong"
ABOVE, BELOW, OPEN, UNDEFINED = "above", "below", "not told apart", "undefined"


def compare_intervals(one: tuple[float, float], other: tuple[float, float]) -> str:
    """Where one interval lies beside another: "above", "below" or, where they overlap, "not told apart"."""
    return ABOVE if one[0] > other[1] else BELOW if one[1] < other[0] else OPEN


def against_control(measures: Mapping[str, Any], name: str) -> str:
    """Where a measure of a record lies beside its control.

    Args:
        measures: of a record of run_task.
        name: one of CLAIMS.

    Returns:
        "above", "below", "not told apart", or "undefined" where the record does not hold the measure.
    """
    one, other = measures.get(name), measures.get(CLAIMS[name][0])
    if one is None or other is None:
        return UNDEFINED
    return compare_intervals((one["low"], one["high"]), (other["low"], other["high"]))


def recall_against_rest(both: int, corrected: int, icl_right: int, zsl_wrong: int) -> str:
    """Where ICL's recall of what FT corrects lies beside its recall of the rest of what ZSL gets wrong.

    Args:
        both: examples that ZSL gets wrong, FT right and ICL right.
        corrected: examples that ZSL gets wrong and FT right.
        icl_right: examples that ZSL gets wrong and ICL right.
        zsl_wrong: examples that ZSL gets wrong.

    Returns:
        "above", "below" or "not told apart", by Fisher's exact test at 5 %; "undefined" where FT corrects nothing, or
        everything that ZSL gets wrong.

    Raises:
        ValueError: counts that cannot belong together.
    """
    rest, icl_rest = zsl_wrong - corrected, icl_right - both
    if not (0 <= both <= corrected and 0 <= icl_rest <= rest):
        raise ValueError(
            f"both, corrected, icl_right, zsl_wrong are {both}, {corrected}, {icl_right}, {zsl_wrong}; these counts "
            "cannot belong together"
        )
    if corrected == 0 or rest == 0:
        return UNDEFINED
    p = scipy.stats.fisher_exact([[both, corrected - both], [icl_rest, rest - icl_rest]]).pvalue
    if p >= 0.05:
        return OPEN
    return ABOVE if both / corrected > icl_rest / rest else BELOW


def sentence(claim: str, words: Mapping[str, str]) -> str:
    """Whether a claim is reproduced, from the word of each task.

    It is where every task whose measure is defined says "above", and in part where some do. Where none does, it is not
    reproduced; but where no task tells measure and control apart at all, the claim is left open.

    Args:
        claim: what would be so.
        words: task -> "above", "below", "not told apart" or "undefined".
    """
    defined = [task for task, word in words.items() if word != UNDEFINED]
    above = [task for task in defined if words[task] == ABOVE]
    if not defined:
        reason = "the measure is undefined on every task" if words else "there is no such task"
        return f"{claim}: cannot be said, {reason}."
    if above:
        verdict = "reproduced" if above == defined else "reproduced in part"
    else:
        verdict = "not reproduced" if BELOW in words.values() else "left open"
    parts = [f"{word} on {_list(words, word)}" for word in (ABOVE, OPEN, BELOW, UNDEFINED) if word in words.values()]
    return f"{claim}: {verdict} ({'; '.join(parts)})."


def _list(words: Mapping[str, str], word: str) -> str:
    tasks = [task for task, mine in words.items() if mine == word]
    return f"all {len(tasks)} tasks" if len(tasks) == len(words) > 1 else ", ".join(tasks)
