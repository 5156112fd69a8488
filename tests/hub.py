"""A small Hugging Face hub on this machine, to download from in tests, and to fail in the ways a network fails.

    with Hub() as hub:
        hub.publish("some/repo", folder)
        hub.fail("model.safetensors", cut(after=1000))
        ...                                  # a process with HF_ENDPOINT=hub.endpoint downloads
        hub.asked                            # what it was asked, in order

Repositories are folders. As on the real hub, large files are kept elsewhere: the answer to a request for one is a
redirection to a storage server, here a second port, with the file's sha256 as its etag. Only 127.0.0.1 is served;
no answer takes longer than `PATIENCE` seconds, and the servers end with the `with` block.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from . import tiny

NOWHERE = "http://127.0.0.1:9"  # nobody listens there
PATIENCE = 30.0  # seconds
LARGE = (".safetensors", ".bin", "tokenizer.json")  # what is kept in storage


@dataclass
class Asked:
    """One request."""

    method: str
    path: str  # of the storage server too: "/storage/..."
    range: str | None
    token: str | None


@dataclass
class Answer:
    """What would be sent, before a failure changes it."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Failure = Callable[["Handler", Answer], None]


class Hub:
    """The hub and its storage. `publish` gives it repositories, `fail` and `private`, `gated` make it refuse."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Path]] = {}  # repository -> branch, tag or commit -> folder
        self.private: set[str] = set()  # need the token, and are not there without
        self.gated: set[str] = set()  # can be seen, but need the token for their files
        self.token = "hf_of_a_reader"
        self.asked: list[Asked] = []
        self.failures: list[tuple[re.Pattern[str], re.Pattern[str], Failure, int]] = []
        self.lock, self.closing = threading.Lock(), threading.Event()

    def __enter__(self) -> Hub:
        self.servers = [Server(("127.0.0.1", 0), partial(Handler, self)) for _ in range(2)]
        self.endpoint, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        for server in self.servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def publish(self, repo: str, folder: Path, *revisions: str) -> str:
        """Give `folder` the branches or tags `revisions` of `repo` ("main" if none); returns its commit."""
        digest = hashlib.sha1(repo.encode())
        for path in sorted(folder.iterdir()):
            digest.update(path.name.encode() + path.read_bytes())
        commit = digest.hexdigest()
        for revision in (*(revisions or ["main"]), commit):
            self.repos.setdefault(repo, {})[revision] = folder
        return commit

    def commit(self, repo: str, revision: str) -> str:
        """The commit of a branch or tag: the 40 digits under which the same folder is known."""
        names, folder = self.repos[repo], self.repos[repo][revision]
        return next(name for name in names if names[name] == folder and re.fullmatch("[0-9a-f]{40}", name))

    def fail(self, path: str, failure: Failure, method: str = "GET", times: int = 10**9) -> None:
        """Let the next `times` requests whose path ends in the pattern `path` end in `failure`."""
        self.failures.append((re.compile(path + "$"), re.compile(method), failure, times))

    def failure(self, asked: Asked) -> Failure | None:
        """What the request ends in, if it is to fail; counts it."""
        with self.lock:
            self.asked.append(asked)
            for i, (path, method, failure, times) in enumerate(self.failures):
                if times and path.search(asked.path) and method.fullmatch(asked.method):
                    self.failures[i] = (path, method, failure, times - 1)
                    return failure
        return None

    def ranges(self, name: str) -> list[str | None]:
        """The ranges in which the content of `name` was asked for, in order; None is the whole of it."""
        place = "/storage/" if name.endswith(LARGE) else "/resolve/"
        return [one.range for one in self.asked if one.method == "GET" and re.search(f"^.*{place}.*/{name}$", one.path)]

    # --- answers ---

    def answer(self, asked: Asked) -> Answer:
        """What a hub that works would say."""
        part = "([^/]+)"
        routes = {
            f"/api/models/({part}/{part})": self.about,
            f"/api/models/({part}/{part})/revision/{part}": self.about,
            f"/api/models/({part}/{part})/tree/{part}": self.tree,
            f"/({part}/{part})/resolve/{part}/{part}": self.file,
            f"/storage/({part}/{part})/{part}/{part}": self.stored,
        }
        for route, answer in routes.items():
            if found := re.fullmatch(route, asked.path):
                repo, _, _, *rest = map(unquote, found.groups())
                return answer(asked, repo, *rest)
        return Answer(404)

    def refusal(self, asked: Asked, repo: str, revision: str) -> Answer | None:
        if repo not in self.repos or (repo in self.private and asked.token != self.token):
            return Answer(401, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        if revision not in self.repos[repo]:
            return Answer(404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"})
        return None

    def about(self, asked: Asked, repo: str, revision: str = "main") -> Answer:
        """What the repository is and the names of its files."""
        if refused := self.refusal(asked, repo, revision):
            return refused
        siblings = [{"rfilename": path.name} for path in sorted(self.repos[repo][revision].iterdir())]
        return Answer(200, as_json({"id": repo, "sha": self.commit(repo, revision), "siblings": siblings}))

    def tree(self, asked: Asked, repo: str, revision: str) -> Answer:
        """The files with their sizes."""
        if refused := self.refusal(asked, repo, revision):
            return refused
        files = sorted(self.repos[repo][revision].iterdir())
        return Answer(
            200, as_json([{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": ""} for f in files])
        )

    def file(self, asked: Asked, repo: str, revision: str, name: str) -> Answer:
        """A small file, or where a large one is."""
        if refused := self.refusal(asked, repo, revision):
            return refused
        if repo in self.gated and asked.token != self.token:
            status = 403 if asked.token else 401
            return Answer(status, b'{"error": "Access is restricted"}', {"X-Error-Code": "GatedRepo"})
        commit, path = self.commit(repo, revision), self.repos[repo][revision] / name
        headers = {"X-Repo-Commit": commit}
        if not path.is_file():
            return Answer(404, b"Entry not found", headers | {"X-Error-Code": "EntryNotFound"})
        body = path.read_bytes()
        if not name.endswith(LARGE):
            return Answer(200, body, headers | {"ETag": f'"{hashlib.sha1(body).hexdigest()}"'})
        headers |= {"X-Linked-Size": str(len(body)), "X-Linked-Etag": f'"{hashlib.sha256(body).hexdigest()}"'}
        return Answer(302, b"", headers | {"Location": f"{self.storage}/storage/{repo}/{commit}/{name}"})

    def stored(self, asked: Asked, repo: str, commit: str, name: str) -> Answer:
        """A large file."""
        return Answer(200, (self.repos[repo][commit] / name).read_bytes())


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


class Server(ThreadingHTTPServer):
    """Ends without waiting for anybody, and does not mind those who went away in the middle."""

    daemon_threads, block_on_close = True, False

    def handle_error(self, *where: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*where)


class Handler(BaseHTTPRequestHandler):
    """One request and its answer; the connection is closed after it."""

    timeout = PATIENCE

    def __init__(self, hub: Hub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def do_GET(self) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        asked = Asked(self.command, urlsplit(self.path).path, self.headers.get("Range"), token)
        failure, answer = self.hub.failure(asked), self.hub.answer(asked)
        (failure or Handler.send)(self, answer)

    do_HEAD = do_GET

    def send(self, answer: Answer, length: int | None = None) -> None:
        """Send the part that was asked for; of that, only the first `length` bytes, though more were promised."""
        status, body, headers = answer.status, answer.body, answer.headers
        if status == 200 and (wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            first, last = int(wanted[1]), int(wanted[2] or len(body))
            status, total, body = 206, len(body), body[first : last + 1]
            headers = headers | {"Content-Range": f"bytes {first}-{first + len(body) - 1}/{total}"}
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:length])

    def log_message(self, *_: object) -> None:
        pass


# --- failures ---


def cut(after: int) -> Failure:
    """Close the connection when `after` bytes of the body are sent."""
    return lambda handler, answer: handler.send(answer, after)


def say(status: int, body: bytes = b"", **headers: str) -> Failure:
    """Answer something else."""
    return lambda handler, _: handler.send(Answer(status, body, headers))


def silence(handler: Handler, _: Answer) -> None:
    """Say nothing until the one who asked has gone, or the hub closes."""
    handler.hub.closing.wait(PATIENCE)


class Stall:
    """Send `after` bytes of the body and then nothing more; `reached` is set when they are sent."""

    def __init__(self, after: int) -> None:
        self.after, self.reached = after, threading.Event()

    def __call__(self, handler: Handler, answer: Answer) -> None:
        handler.send(answer, self.after)
        handler.wfile.flush()
        self.reached.set()
        handler.hub.closing.wait(PATIENCE)


# --- those who ask ---


def environment(endpoint: str, home: Path, **more: str) -> dict[str, str]:
    """The variables of a process that knows the hub at `endpoint` and no other, and keeps downloads under `home`."""
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    ours = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return theirs | tiny.ENVIRONMENT | quiet | ours | more


def start(endpoint: str, home: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """A minibloom `command` in a process of its own, still running."""
    return subprocess.Popen(
        [*tiny.COMMAND, *command],
        env=environment(endpoint, home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


PROGRAM = """
import contextlib, io, json, sys, time
import huggingface_hub.file_download
from minibloom.cli import main
time.sleep = lambda seconds: None  # huggingface_hub waits between its attempts
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(arguments)
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""


def ask(endpoint: str, home: Path, *commands: Sequence[str], **more: str) -> list[tuple[int, str, str]]:
    """Status, output and errors of each of the minibloom `commands`, all in one process.

    In a process of its own, for huggingface_hub reads its settings once.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        env=environment(endpoint, home, **more),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]
