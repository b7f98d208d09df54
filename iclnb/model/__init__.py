"""GPT itself, and how it comes from a file and goes into one.

Begin with gpt.py, which maps to the diagram; architectures.py, layouts.py and checkpoints.py read eight architectures
into it.
"""
