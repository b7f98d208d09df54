"""Draw the pictures of an idea: `draw()` of each file beside this one, into an SVG file of the same name.

python notebooks/pictures/make.py          draw them all
python notebooks/pictures/make.py split    draw split.svg alone
"""

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("make", "pen"))


def draw(name):
    """The picture that a file draws, as a Picture."""
    sys.path.insert(0, str(HERE))
    try:
        return importlib.import_module(name).draw()
    finally:
        sys.path.remove(str(HERE))


if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        draw(name).save(HERE / f"{name}.svg")
