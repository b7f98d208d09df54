"""Contextual calibration: answers judged against what the model says to a query without content.

A GPT may prefer one answer whatever the query says, and more so after demonstrations. Its probabilities are divided by
those that it gives to content-free queries after the same prompt.

Source: Zhao et al. 2021, Calibrate Before Use, section 5.
"""

import dataclasses

from torch import Tensor

from iclnb.experiment.predict import Predictions, predict
from iclnb.model.gpt import GPT
from iclnb.tasks.prompts import EncodedTask
from iclnb.tasks.variants import contextual


def bias(model: GPT, encoded: EncodedTask, batch_size: int | None = None) -> Tensor:
    """What the model says to queries without content, after the prompt of the task.

    Returns:
        Log-probability of each answer for each of prompts.CONTENT_FREE, (3, classes) float32.
    """
    free = dataclasses.replace(encoded, queries=encoded.content_free, labels=[0] * len(encoded.content_free))
    return predict(model, free, batch_size=batch_size).log_probs


def calibrated(run: Predictions, bias: Tensor) -> Predictions:
    """A run with probabilities divided by those without content; `bias` as from the function of that name."""
    return dataclasses.replace(run, log_probs=contextual(run.log_probs, bias).log(), calibrated=True)
