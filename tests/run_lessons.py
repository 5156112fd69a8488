"""Runs lessons from top to bottom and keeps what they show, in the notebooks themselves.

    python -m tests.run_lessons            # all of them; or: python -m tests.run_lessons 03 07

`test_lessons.py` runs them the same way, and holds what it sees to what was kept.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
LESSONS = ROOT / "lessons"


def paths() -> list[Path]:
    return sorted(LESSONS.glob("[0-9][0-9]-*.ipynb"))


def run(path: Path, *more: str) -> Any:
    """The notebook with fresh outputs, `more` cells of code run at its end and left out again."""
    book = nbformat.read(path, as_version=4)
    cells = len(book.cells)
    book.cells += [nbformat.v4.new_code_cell(code) for code in more]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])  # of the kernel
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    resources = {"metadata": {"path": str(LESSONS)}}
    NotebookClient(book, timeout=300, kernel_name="python3", resources=resources, coalesce_streams=True).execute()
    del book.cells[cells:]
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # times, which differ from run to run
        for output in cell.get("outputs", []):
            for mime, data in output.get("data", {}).items():
                if mime == "image/svg+xml":
                    output["data"][mime] = re.sub(r"[ \t]+\n", "\n", data)
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return book


if __name__ == "__main__":
    chosen = sys.argv[1:]
    for path in paths():
        if not chosen or any(path.name.startswith(number) for number in chosen):
            nbformat.write(run(path), path)
            print(path.name)
