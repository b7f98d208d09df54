"""Checks: that ways to one result agree, and what is wrong with a reader's answer to an exercise.

`assert_agree` holds the notebooks' own claims. The rest is one function for each exercise, in a file for each notebook;
it takes the reader's function and prints one sentence, "Right: ..." or "Not yet: ...". It never raises because of the
answer, so that an unanswered exercise does not stop a notebook.
"""

from iclnb.checks.core import assert_agree
from iclnb.checks.notebook_01 import cross_entropy_errors, demonstration_share, implied_targets, sequential_errors
from iclnb.checks.notebook_05 import attention_update_similarity, recall_to_icl
from iclnb.checks.notebook_07 import combined_weights, momentum_weights
