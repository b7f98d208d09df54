"""Contextual calibration: what the model answers to an input without content is its bias, and is divided out.

Source: Zhao et al. 2021, Calibrate Before Use, section 5.
"""

import dataclasses

from torch import Tensor

from iclnb.tasks import Example, Task

CONTENT_FREE = ("N/A", "[MASK]", "")  # the three inputs of Zhao et al.


def content_free(task: Task) -> Task:
    """The task with one query for each of CONTENT_FREE before its evaluation examples; their labels mean nothing.

    The evaluation examples stay, because the longest of them decides how many demonstrations fit.
    """
    texts = (task.spec.template.format(**dict.fromkeys(task.spec.fields, word)) for word in CONTENT_FREE)
    return dataclasses.replace(task, evaluation=(*(Example(text, 0) for text in texts), *task.evaluation))


def contextual(log_probs: Tensor, bias: Tensor) -> Tensor:
    """Probabilities divided by those that the model gives without content.

    Args:
        log_probs: log-probability of each answer, (n, classes).
        bias: the same for content-free inputs, (m, classes), whose mean probabilities are what is divided by.

    Returns:
        (n, classes), each row summing to 1.
    """
    p, p_free = log_probs.softmax(-1), bias.softmax(-1).mean(0)  # (n, classes), (classes,)
    q = p / p_free  # (n, classes)
    return q / q.sum(-1, keepdim=True)  # (n, classes)
