"""What a model is asked: the six tasks, how a prompt is written, and tasks with other labels.

Begin with task.py, then prompts.py.
"""

from iclnb.tasks.task import SPECS, TASKS, Example, Task, load_task

__all__ = ["SPECS", "TASKS", "Example", "Task", "load_task"]
