"""The lessons, in a folder that a reader may scribble in: `minibloom lessons`.

They are the notebooks of the repository's folder `lessons`, with their exercises and solutions; a package that is
installed has them as `minibloom/notebooks`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from .errors import InputError
from .files import make_folder, replacing

PACKAGE = Path(__file__).parent
PLACES = (PACKAGE / "notebooks", PACKAGE.parent / "lessons")  # when installed, and in a checkout
FOLDER = "minibloom-lessons"
INSTALL = "python -m pip install jupyterlab matplotlib"


def source() -> Path:
    """Where the lessons are that came with minibloom."""
    for place in PLACES:
        if any(place.glob("*.ipynb")):
            return place
    raise InputError(
        "this installation of minibloom has no lessons. Install it again, or take them from its repository."
    )


def files(folder: Path) -> list[Path]:
    """All files of the lessons in `folder`, relative to it; not what running them leaves there."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith((".", "__pycache__")) for part in path.parts))


def copy_lessons(folder: str | Path = FOLDER) -> list[Path]:
    """Copy what is missing in `folder`, which is made if need be; return what was, relative to it.

    What is there already stays as it is, whatever is in it.
    """
    home, folder = source(), make_folder(folder)
    missing = [path for path in files(home) if not (folder / path).exists()]
    for path in missing:
        make_folder((folder / path).parent)
        try:
            with replacing(folder / path) as temporary:
                shutil.copyfile(home / path, temporary)
        except OSError as error:
            raise InputError(f"{folder / path} cannot be written: {error.strerror}.") from None
    return missing


def check_jupyterlab() -> None:
    """Raise an InputError if the lessons cannot be opened."""
    if find_spec("jupyterlab") is None:
        raise InputError(f"JupyterLab is not installed. {INSTALL} installs it; --no-open copies the lessons without.")


def open_lessons(folder: str | Path) -> int:
    """Run JupyterLab in `folder`, at the first lesson, until it is stopped; returns its exit status."""
    environment = dict(os.environ)
    if source() == PLACES[1]:  # the lessons import minibloom, which is not installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    first = min(path.name for path in source().glob("*.ipynb"))
    process = subprocess.Popen([sys.executable, "-m", "jupyterlab", first], cwd=folder, env=environment)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # else JupyterLab would run on alone
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # which JupyterLab is told too, and asks about
                continue
    finally:
        signal.signal(signal.SIGTERM, before)
