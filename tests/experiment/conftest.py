"""What the tests of grids share: a place with a model and tasks in files, and a process that remembers nothing."""

import pytest


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a checkpoint, a task of 20 training examples, one of three rows, and room for markers."""
    from test_grid import write_model, write_task

    folder = tmp_path_factory.mktemp("grid")
    write_model(folder / "model")
    write_task(folder / "data", 20, 9)
    write_task(folder / "three", 3, 3)
    return folder


@pytest.fixture(autouse=True)
def forget():
    """Each test begins as a new process does."""
    from iclnb.experiment import grid

    for held in (grid._held.clear, grid._sources.clear, grid._load_task.cache_clear):
        held()
