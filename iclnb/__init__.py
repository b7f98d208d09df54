"""iclnb: why can GPT learn in context? Derive it, run it, judge it."""

import sys

from iclnb import interrupts

if sys.argv[:1] == ["-m"]:  # `python -m iclnb`, which takes seconds to import: a signal then is no traceback
    interrupts.leave_at_once()

from iclnb.experiment import compare
from iclnb.experiment.finetune import finetune_attention
from iclnb.experiment.predict import few_shot, zero_shot
from iclnb.model.checkpoints import load
from iclnb.paths import __version__ as __version__
from iclnb.tasks import load_task

__all__ = ["compare", "few_shot", "finetune_attention", "load", "load_task", "zero_shot"]
