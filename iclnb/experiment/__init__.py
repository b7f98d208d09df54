"""The paper's experiment: predict, fine-tune, compare, with controls; one task, or a grid stored as it goes.

Begin with run.py, one task from prompt to record; compare.py holds the four measures.
"""
