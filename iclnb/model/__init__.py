"""GPT itself, and how it comes from a file and goes into one.

Begin with gpt.py, which maps to the diagram; layouts.py and checkpoints.py read five architectures into it.
"""
