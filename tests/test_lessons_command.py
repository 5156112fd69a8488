"""`minibloom lessons`: a copy of the lessons that is the reader's own, and JupyterLab in it."""

from __future__ import annotations

import signal
import time
import tomllib
from pathlib import Path

import pytest

from minibloom import InputError, cli, lessons
from minibloom.lessons import copy_lessons, files, source

from . import tiny

ROOT = Path(__file__).parent.parent
THERE = {"00-first.ipynb": "{}", "10-last.ipynb": "{}", "exercises/lesson_00.py": "1", "data.safetensors": "x"}
LEFT = ["exercises/__pycache__/lesson_00.pyc", ".ipynb_checkpoints/00-first.ipynb", ".hidden"]  # by running them
# Stands for JupyterLab: says how it was started, and ends with a status of its own when it is told to.
STAND_IN = """
import os, sys, time, minibloom
print(os.getcwd(), *sys.argv[1:], minibloom.__file__, sep="\\n", flush=True)
while not os.path.exists("stop"):
    time.sleep(0.01)
sys.exit(7)
"""


def write(folder: Path, contents: dict[str, str]) -> None:
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lessons of our own in the place of those that ship."""
    folder = tmp_path / "shipped"
    write(folder, {**THERE, **dict.fromkeys(LEFT, "left")})
    monkeypatch.setattr(lessons, "PLACES", (tmp_path / "not installed", folder))
    return folder


def texts(folder: Path) -> dict[str, str]:
    return {name: content.decode() for name, content in tiny.contents(folder).items()}


# --- the copy ---


def test_a_copy_has_all_files_and_nothing_that_running_them_leaves(shipped, tmp_path):
    folder = tmp_path / "of" / "mine"
    assert [path.as_posix() for path in copy_lessons(folder)] == sorted(THERE)
    assert texts(folder) == THERE


def test_what_the_reader_has_stays_and_what_is_missing_comes_back(shipped, tmp_path):
    folder = tmp_path / "mine"
    copy_lessons(folder)
    write(folder, {"00-first.ipynb": "scribbled", "notes.txt": "my own"})
    (folder / "10-last.ipynb").unlink()
    write(shipped, {"05-new.ipynb": "new", "exercises/lesson_05.py": "5", "data.safetensors": "another version"})
    assert [path.as_posix() for path in copy_lessons(folder)] == [
        "05-new.ipynb",
        "10-last.ipynb",
        "exercises/lesson_05.py",
    ]
    mine = {"00-first.ipynb": "scribbled", "notes.txt": "my own"}
    assert texts(folder) == THERE | {"05-new.ipynb": "new", "exercises/lesson_05.py": "5"} | mine
    assert copy_lessons(folder) == []


def test_where_no_copy_can_be_made(shipped, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is no folder"):
        copy_lessons(tmp_path / "file")
    write(tmp_path / "mine", {"exercises": "a file"})
    with pytest.raises(InputError, match="exercises is no folder"):
        copy_lessons(tmp_path / "mine")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(InputError, match=r"00-first.ipynb cannot be written: No space left on device\."):
        copy_lessons(tmp_path / "other")
    assert texts(tmp_path / "other") == {}
    monkeypatch.setattr(lessons, "PLACES", (tmp_path / "nowhere",))
    with pytest.raises(InputError, match="this installation of minibloom has no lessons"):
        copy_lessons(tmp_path / "other")


def test_every_file_of_the_lessons_goes_into_the_package():
    assert source().name in ("lessons", "notebooks") and any(source().glob("00-*.ipynb"))
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert tools["package-dir"] == {"minibloom.notebooks": "lessons"} and "minibloom.notebooks" in tools["packages"]
    patterns = tools["package-data"]["minibloom.notebooks"]
    for path in files(ROOT / "lessons"):
        assert any(Path("/", path).match(f"/{pattern}") for pattern in patterns), f"{path} would not be installed"


# --- the command ---


def test_the_command_says_what_it_did(shipped, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["lessons", "--no-open"]) == 0
    assert capsys.readouterr().out == "minibloom-lessons: the lessons, a copy of your own to write in.\n"
    assert texts(tmp_path / "minibloom-lessons") == THERE
    assert cli.main(["lessons", "--no-open"]) == 0
    kept = "what was there is kept as it was.\n"
    assert capsys.readouterr().out == f"minibloom-lessons: nothing is missing; {kept}"
    (tmp_path / "minibloom-lessons" / "10-last.ipynb").unlink()
    assert cli.main(["lessons", "minibloom-lessons", "--no-open"]) == 0
    assert capsys.readouterr().out == f"minibloom-lessons: added 10-last.ipynb; {kept}"


def test_without_jupyterlab_nothing_is_made_and_one_line_says_what_to_do(shipped, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lessons, "find_spec", lambda name: None)
    assert cli.main(["lessons", str(tmp_path / "mine")]) == 2
    said = capsys.readouterr()
    assert "python -m pip install jupyterlab matplotlib" in said.err and "--no-open" in said.err
    assert said.err.count("\n") == 1 and said.out == "" and not (tmp_path / "mine").exists()


def test_jupyterlab_starts_in_the_copy_at_the_first_lesson_and_is_asked_when_to_stop(tmp_path):
    """Ctrl-C is JupyterLab's to answer: it asks whether it is meant. minibloom waits, and ends as it ends."""
    write(tmp_path / "modules", {"jupyterlab/__init__.py": "", "jupyterlab/__main__.py": STAND_IN})
    folder, paths = tmp_path / "mine", [str(tmp_path / "modules"), tiny.ENVIRONMENT["PYTHONPATH"]]
    process = tiny.start("lessons", folder, PYTHONPATH=":".join(paths))
    said = [process.stdout.readline().decode().strip() for _ in range(4)]
    assert said[1:3] == [str(folder), min(path.name for path in source().glob("*.ipynb"))]
    assert said[3] == str(Path(cli.__file__).parent / "__init__.py")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    (folder / "stop").touch()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (7, b"", b"")


def test_a_command_that_is_ended_does_not_leave_jupyterlab_behind(tmp_path):
    write(tmp_path / "modules", {"jupyterlab/__init__.py": "", "jupyterlab/__main__.py": STAND_IN})
    paths = [str(tmp_path / "modules"), tiny.ENVIRONMENT["PYTHONPATH"]]
    process = tiny.start("lessons", tmp_path / "mine", PYTHONPATH=":".join(paths))
    for _ in range(4):
        process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)  # waits until nobody holds its output: JupyterLab has it too
    assert process.returncode == 256 - signal.SIGTERM  # how JupyterLab ended, in this case by the signal


def test_a_checkout_that_is_not_installed_lends_itself_to_the_lessons(shipped, tmp_path, monkeypatch):
    """Their kernels run in the copy, from where `import minibloom` would not find it."""
    started = {}

    class Started:
        def __init__(self, command: list[str], **how: object) -> None:
            started.update(how, command=command)

        def wait(self) -> int:
            return 0

    monkeypatch.setattr("subprocess.Popen", Started)
    monkeypatch.setattr(lessons, "find_spec", lambda name: object())
    monkeypatch.setenv("PYTHONPATH", "others")
    assert lessons.open_lessons(tmp_path) == 0
    assert started["command"][1:] == ["-m", "jupyterlab", "00-first.ipynb"] and started["cwd"] == tmp_path
    assert started["env"]["PYTHONPATH"].split(":") == [str(lessons.PACKAGE.parent), "others"]
    monkeypatch.setattr(lessons, "PLACES", (shipped, tmp_path))  # installed
    lessons.open_lessons(tmp_path)
    assert started["env"]["PYTHONPATH"] == "others"
