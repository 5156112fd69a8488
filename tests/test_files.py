"""How files are put in place, and what is no place to load from. What comes from the hub: `test_download.py`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from minibloom.checkpoint import check_free
from minibloom.errors import InputError
from minibloom.files import fetch, make_folder, read_json, replacing
from minibloom.training_state import check_run

# --- Putting files in place ---


def test_a_file_that_is_replaced_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == tmp_path
    assert path.read_text() == "new"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_permissions_of_a_new_one_whoever_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with replacing(tmp_path / "file") as temporary:
        temporary.unlink()
        temporary.touch(0o600)  # as safetensors does
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for folder in ("taken", "taken/below"):
        with pytest.raises(InputError, match=r"taken.* is no folder"):
            make_folder(tmp_path / folder)


@pytest.mark.parametrize("given", ["", Path("~/new")])
def test_no_name_is_no_folder_and_a_tilde_is_the_home_folder(given, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    if given:
        assert make_folder(given) == tmp_path / "new" and (tmp_path / "new").is_dir()
        return
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the folder to write into is '', expected its path"):
        make_folder(given)
    for resume in (False, True):
        with pytest.raises(InputError, match="the folder to write into is ''"):
            check_run(given, resume)
    with pytest.raises(InputError, match="the folder to write into is ''"):
        check_free(given)


def test_a_folder_that_nothing_can_be_written_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a run whose first save would be lost. The system's answer is put on: what the superuser may, differs."""
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(InputError, match="out cannot be written to: give another folder"):
        make_folder(tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist"),
        (b"{", "no valid JSON"),
        (b"\xff\xfe\xfd", "no valid JSON"),
        (b"[" * 100_000, "no valid JSON"),
        (b"[1]", "holds a list, expected a JSON object"),
    ],
)
def test_bad_json_is_one_error_that_names_the_file(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "some.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"some.json.* {problem}"):
        read_json(path)


# --- Where a checkpoint comes from ---


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch(tmp_path) == fetch(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch("~") == tmp_path


PATHS = ["", "./nowhere", "../nowhere", "/nowhere", "~/nowhere", "~nobody/here", "a/b/c", "a b", Path("a/b")]


@pytest.mark.parametrize("given", PATHS)
def test_a_path_that_is_not_there_is_never_looked_for_on_the_hub(given: str | Path) -> None:
    with pytest.raises(InputError, match="does not exist, expected the folder of a checkpoint or a repository"):
        fetch(given)


def test_a_file_is_no_folder_and_a_pickle_is_never_opened(tmp_path: Path) -> None:
    for name, advice in [("model.safetensors", "Give "), ("pytorch_model.bin", "safe_serialization=True")]:
        (tmp_path / name).write_text("")
        with pytest.raises(InputError, match=f"{name} is a file, expected the folder.*{advice}"):
            fetch(tmp_path / name)
