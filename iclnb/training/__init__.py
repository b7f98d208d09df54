"""Training from scratch: one loop for language models and labs, text to train on, and what is measured on the way.

Begin with loop.py; pretrain.py trains pocket-gpt, or a GPT of any shape on a text.
"""

from iclnb.training.loop import Schedule, train

__all__ = ["Schedule", "train"]
