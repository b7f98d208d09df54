"""Put the Chinese summary of each notebook, docs/zh/summaries/NAME.md, at the end of its first cell.

    python tools/summaries.py            put them in, or renew them, in all notebooks or in those that are named
    python tools/summaries.py --check    change nothing, and fail where one is missing or stale

The page's title and the links below it stay out. Running this twice changes nothing.
"""

import json
import re
import sys

import notebooks as tool

FOLDER = tool.ROOT / "docs" / "zh" / "summaries"
HEAD = "\n\n<details><summary>中文摘要</summary>\n\n"
STAMPED = re.compile(rf"{HEAD}.*?</details>", re.DOTALL)


def summary(path):
    """Returns what unfolds in the notebook at `path`."""
    page = FOLDER / f"{path.stem}.md"
    if not page.is_file():
        raise tool.NotebookFailed(f"{tool.relative(path)} has no summary {tool.relative(page)}.")
    text = page.read_text(encoding="utf-8").split("\n\n", 2)[2].strip()
    return f"{HEAD}{text}\n\n</details>"


def stamp(text, path):
    """Returns a notebook's file with its summary in the first cell; everything else keeps its bytes."""
    notebook = json.loads(text)
    first = notebook["cells"][0]
    source = STAMPED.sub("", "".join(first["source"])) + summary(path)
    first["source"] = source.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(tool.stamp_files(stamp, "summaries"))
