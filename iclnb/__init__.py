"""iclnb: why can GPT learn in context? Derive it, run it, judge it."""

from iclnb import compare
from iclnb.checkpoints import load
from iclnb.evaluate import few_shot, zero_shot
from iclnb.finetune import finetune_attention
from iclnb.paths import __version__ as __version__
from iclnb.tasks import load_task

__all__ = ["compare", "few_shot", "finetune_attention", "load", "load_task", "zero_shot"]
