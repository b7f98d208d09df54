"""What the tests of the page share: the page itself, in a folder."""

import os

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def live(tmp_path_factory):
    """The folder that `make live` has built or, where something has changed since, one that is built now."""
    for module in ("onnx", "onnxscript"):
        pytest.importorskip(module, reason="the extra live is not installed")
    import live as tool
    import npm

    if tool.is_fresh():
        return tool.OUT
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "live"  # one for all processes of a run
    with FileLock(f"{folder}.lock"):
        if not (folder / tool.DATA).exists():
            try:
                tool.build(folder)
            except npm.NotFetched as error:
                pytest.skip(str(error))
    return folder
