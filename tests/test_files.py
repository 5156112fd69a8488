"""Where files come from, and how they are put in place. The hub is a small server on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy
import pytest

import minibloom
from minibloom.checkpoint import write_checkpoint
from minibloom.config import BloomConfig, parameter_shapes
from minibloom.errors import InputError
from minibloom.files import fetch, make_folder, read_json, replacing

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = BloomConfig(vocab_size=20, hidden_size=8, n_layer=1, n_head=2)


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


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for folder in ("taken", "taken/below"):
        with pytest.raises(InputError, match=r"taken.* is no folder"):
            make_folder(tmp_path / folder)


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


# --- The hub ---


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that a download needs. Repositories are folders; `gated` needs a login."""

    root: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.split("?")[0].strip("/")
        api = path.startswith("api/models/")
        owner, name, *rest = [*path.removeprefix("api/models/").split("/"), "", ""]
        repo = self.root / owner / name
        files = sorted(repo.iterdir()) if repo.is_dir() else []
        if not files:
            self.answer(401, b"Repository Not Found", {"X-Error-Code": "RepoNotFound"})
        elif api and rest[0] == "revision" and rest[1] not in ("main", COMMIT):
            self.answer(404, b"Revision Not Found", {"X-Error-Code": "RevisionNotFound"})
        elif api and rest[0] == "tree":
            tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": sha(f)} for f in files]
            self.answer(200, json.dumps(tree).encode())
        elif api:
            siblings = [{"rfilename": f.name} for f in files]
            self.answer(200, json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}).encode())
        elif name == "gated":
            self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        elif not (repo / rest[2]).is_file():
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self.answer(200, (repo / rest[2]).read_bytes(), {"ETag": f'"{sha(repo / rest[2])}"'})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        wanted = self.headers.get("Range", "")
        if status == 200 and wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            body, status = body[int(first) : int(last) + 1], 206
        self.send_response(status)
        sent = {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        for key, value in (sent | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def sha(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """A hub's address, and what it was asked. It has some/whole, some/shards, some/gated and some/pickle."""
    root = tmp_path_factory.mktemp("hub")
    params = {name: numpy.ones(shape, "float32") for name, shape in parameter_shapes(CONFIG).items()}
    write_checkpoint(root / "some/whole", params, CONFIG, "bfloat16", "transformer.")
    write_checkpoint(root / "some/shards", params, CONFIG, "float16", max_shard_size=1000)
    write_checkpoint(root / "some/gated", params, CONFIG)
    for name in ("whole", "pickle"):
        (root / "some" / name).mkdir(exist_ok=True)
        (root / "some" / name / "pytorch_model.bin").write_bytes(b"a pickle")
    CONFIG.save_pretrained(root / "some/pickle")
    handler = type("Handler", (Hub,), {"root": root, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked  # type: ignore[attr-defined]
    server.shutdown()


PROGRAM = """
import json, sys
from minibloom.checkpoint import describe, load_params
from minibloom.errors import InputError
for what, repo, revision in json.loads(sys.argv[1]):
    try:
        if what == "info":
            print(describe(repo, revision).parameters, flush=True)
        else:
            print(sum(p.sum() for p in load_params(repo, revision=revision)[1].values()), flush=True)
    except InputError as error:
        print(error, flush=True)
"""


def ask(endpoint: str, home: Path, *calls: tuple[str, str, str | None], **env: str) -> list[str]:
    """What minibloom answers to `calls`, in a process of its own (huggingface_hub reads HF_ENDPOINT only once)."""
    ours = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "PYTHONPATH": str(Path(minibloom.__file__).parents[1]),
    }
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = theirs | ours | env
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(calls)],
        env=settings,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


NOWHERE = "http://127.0.0.1:9"  # nobody listens there


def test_a_repository_is_described_from_headers_then_loaded_and_its_pickle_left_alone(
    hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    endpoint, asked = hub
    parameters = sum(int(numpy.prod(shape)) for shape in parameter_shapes(CONFIG).values())
    for repo in ("some/whole", "some/shards"):
        assert ask(endpoint, tmp_path, ("info", repo, None)) == [str(parameters)]
    assert not list(tmp_path.rglob("*.safetensors"))
    loads = [("load", repo, None) for repo in ("some/whole", "some/shards")]
    assert ask(endpoint, tmp_path, *loads, ("load", "some/whole", COMMIT)) == [f"{parameters}.0"] * 3  # all ones
    assert not [path for path in asked if path.endswith(".bin")]
    # What was downloaded once is there without the hub.
    assert ask(NOWHERE, tmp_path, *loads) == [f"{parameters}.0"] * 2
    assert ask(NOWHERE, tmp_path, ("info", "some/whole", None)) == [str(parameters)]


def test_what_the_hub_refuses_is_one_sentence_with_a_way_out(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    calls = {
        ("load", "some/gated", None): "is gated. Accept its terms on its page, then use `hf auth login`.",
        ("load", "some/nothing", None): "does not exist or is private. Check the spelling",
        ("load", "some/whole", "v9"): "has no revision 'v9'",
        ("load", "some/pickle", None): "only as a pickle (pytorch_model.bin), expected model.safetensors",
        ("info", "some/pickle", None): 'from_pretrained("some/pickle").save_pretrained("FOLDER", safe_seria',
        ("info", "a--b", None): "no name of a repository",
    }
    answers = ask(hub[0], tmp_path, *calls)
    assert len(answers) == len(calls)
    for expected, answer in zip(calls.values(), answers, strict=True):
        assert expected in answer
    assert not [path for path in hub[1] if path.endswith(".bin")]


@pytest.mark.parametrize("offline", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_a_hub_out_of_reach_is_an_error_within_seconds(tmp_path: Path, offline: dict[str, str]) -> None:
    start = time.monotonic()
    for answer in ask(NOWHERE, tmp_path, ("load", "some/whole", None), ("info", "some/whole", None), **offline):
        assert "'some/whole' is no folder here" in answer and "cannot be reached" in answer
        assert "give the path of a folder" in answer
    assert time.monotonic() - start < 40  # one round of retries takes 23 seconds a call
