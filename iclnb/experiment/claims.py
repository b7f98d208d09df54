"""What of the paper's comparison shows in the reader's own numbers: differences to judge, a sentence from the words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from iclnb.experiment import selection
from iclnb.intervals import ABOVE, BELOW, OPEN, UNDEFINED, Estimate, over_tasks, share, unpaired

# What it would mean if a measure lay above what it is by chance.
CLAIMS = {
    "sim_aou": "ICL and FT change the attention output in similar directions",
    "sim_am": "ICL's attention maps are closer to FT's than to ZSL's",
    "kendall_tokens": "ICL and FT rank the training tokens in similar orders",
    "kendall_demonstrations": "ICL and FT rank the demonstrations in similar orders",
}
RECALL = "ICL corrects what FT corrects more often than what else ZSL gets wrong"


def above(records: Mapping[str, Sequence[Mapping[str, Any]]], name: str, chance: str) -> Estimate:
    """A measure minus its control or one of its floors: mean over tasks of means over draws of the demonstrations.

    Args:
        records: task -> records of run_task, one a draw; a single draw leaves the interval undefined.
        name: of the measure.
        chance: of the control or floor, a name in the record's measures.

    Returns:
        The mean of the differences, each taken on the same examples and draw, as intervals.over_tasks gives it;
        undefined where no record holds the measure.
    """
    found = {task: [r["measures"] for r in draws if chance in r["measures"]] for task, draws in records.items()}
    gaps = {task: [m[name]["mean"] - m[chance]["mean"] for m in draws] for task, draws in found.items() if draws}
    return over_tasks(gaps) if gaps else Estimate(math.nan, math.nan, math.nan)


def learnt(record: Mapping[str, Any]) -> bool:
    """Whether fine-tuning learnt the task in a record of run_task, as selection.learnt judges it."""
    return selection.learnt(record["correct"]["ft"], record["correct"]["zsl"])


def recall_above_rest(both: int, corrected: int, icl_right: int, zsl_wrong: int) -> Estimate:
    """ICL's recall of what FT corrects, minus its recall of the rest of what ZSL gets wrong; two shares.

    Args:
        both: examples that ZSL gets wrong, FT right and ICL right.
        corrected: examples that ZSL gets wrong and FT right.
        icl_right: examples that ZSL gets wrong and ICL right.
        zsl_wrong: examples that ZSL gets wrong.

    Returns:
        The difference; undefined where FT corrects nothing, or everything that ZSL gets wrong.

    Raises:
        ValueError: counts that cannot belong together.
    """
    rest, icl_rest = zsl_wrong - corrected, icl_right - both
    if not (0 <= both <= corrected and 0 <= icl_rest <= rest):
        raise ValueError(
            f"both, corrected, icl_right, zsl_wrong are {both}, {corrected}, {icl_right}, {zsl_wrong}; these counts "
            "cannot belong together"
        )
    return unpaired(share(both, corrected), share(icl_rest, rest))


def sentence(claim: str, words: Mapping[str, str]) -> str:
    """Whether a claim is reproduced, from the word of each task.

    It is where every task whose measure is defined says "above", and in part where some do. Where none does, it is not
    reproduced; but where no task tells measure and control apart at all, the claim is left open.

    Args:
        claim: what would be so.
        words: task -> "above", "below", "not told apart" or "undefined", as intervals.words gives them.
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
