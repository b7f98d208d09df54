"""Checks: that ways to one result agree, and what is wrong with a reader's answer to an exercise.

`assert_agree` holds the notebooks' own claims. The rest is one function for each exercise, in a file for each notebook;
it takes the reader's function and prints one sentence, "Right: ..." or "Not yet: ...". It never raises because of the
answer, so that an unanswered exercise does not stop a notebook.
"""

from iclnb.teaching.checks.core import assert_agree
from iclnb.teaching.checks.lab_a import expected_error, ridge_weights
from iclnb.teaching.checks.lab_b import best_single_step, many_steps
from iclnb.teaching.checks.lab_c import implied_weights, sherman_morrison
from iclnb.teaching.checks.lab_d import copying_share, mean_ablated
from iclnb.teaching.checks.lab_e import concept_posterior, forward_step
from iclnb.teaching.checks.notebook_00 import mislabel
from iclnb.teaching.checks.notebook_01 import (
    cross_entropy_errors,
    demonstration_share,
    implied_targets,
    sequential_errors,
)
from iclnb.teaching.checks.notebook_02 import first_order_attention, forget_demonstrations
from iclnb.teaching.checks.notebook_03 import calibrated, label_bias
from iclnb.teaching.checks.notebook_04 import answer_loss, flattery, keys_values_step
from iclnb.teaching.checks.notebook_05 import mean_logits, recall_to_icl
from iclnb.teaching.checks.notebook_06 import layer_causal_gradients, random_direction
from iclnb.teaching.checks.notebook_07 import combined_weights, momentum_weights
from iclnb.teaching.checks.notebook_08 import decayed_attention, forgetful_softmax, nesterov_sum
