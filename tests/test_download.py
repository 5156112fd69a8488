"""From the hub: what is downloaded, what is kept, and what becomes of a download that a network or a user breaks off.

The hub is a small server on this machine (`hub.py`); who asks is the command line, in a process of its own.
"""

from __future__ import annotations

import importlib.metadata
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minibloom import BloomForCausalLM, BloomTokenizerFast
from minibloom.generation import stream_text

from . import tiny
from .hub import NOWHERE, PATIENCE, Failure, Hub, Stall, ask, cut, say, silence, start

CHUNK = 10 * 2**20  # bytes; huggingface_hub writes down what it receives in pieces of this size
OLD = importlib.metadata.version("huggingface_hub").startswith("0.")  # which keeps what came of a file, to go on from
PROMPT = "the cat"
CALM = {"eos_token_id": None, "initializer_range": 1.0}  # a model that never ends a text


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by name: in one file with a pickle beside it, in shards, larger than a chunk, only as a pickle."""
    root = tmp_path_factory.mktemp("folders")
    whole, shards, large, pickle = (root / name for name in ("whole", "shards", "large", "pickle"))
    tiny.checkpoint(whole, **CALM)
    (whole / "pytorch_model.bin").write_bytes(b"a pickle")
    tiny.checkpoint(shards, **CALM, n_layer=3)
    BloomForCausalLM.from_pretrained(shards).save_pretrained(shards, dtype="bfloat16", max_shard_size=40_000)
    tiny.checkpoint(large, **CALM, vocab_size=100_000)
    tiny.checkpoint(pickle)
    (pickle / "model.safetensors").rename(pickle / "pytorch_model.bin")
    return {path.name: path for path in (whole, shards, large, pickle)}


@pytest.fixture
def hub(folders: dict[str, Path]) -> Iterator[Hub]:
    """A hub with the repositories some/whole, some/shards, some/large and some/pickle."""
    with Hub() as hub:
        for name, folder in folders.items():
            hub.publish(f"some/{name}", folder)
        yield hub


def info(repo: str, *options: str) -> list[str]:
    return ["info", repo, *options]


def generate(repo: str, *options: str) -> list[str]:
    return ["generate", "--model", repo, PROMPT, "--max-new-tokens", "5", *options]


def text(folder: Path) -> str:
    """What `generate` shows with the checkpoint in `folder`."""
    model, tokenizer = BloomForCausalLM.from_pretrained(folder), BloomTokenizerFast.from_pretrained(folder)
    return PROMPT + "".join(stream_text(model, tokenizer, PROMPT, max_new_tokens=5)) + "\n"


def kept(home: Path) -> dict[str, bytes]:
    """The files of all downloads, by name."""
    return {path.name: path.read_bytes() for path in home.glob("hub/models--*/snapshots/*/*")}


def assert_error(outcome: tuple[int, str, str], *said: str) -> None:
    """One line that says all of `said`, and nothing else."""
    status, out, err = outcome
    assert (status, out, err.count("\n")) == (2, "", 1)
    for part in said:
        assert part in err


# --- What is downloaded, and what is kept ---


def test_a_repository_is_downloaded_once_and_works_without_the_hub_from_then_on(hub, folders, tmp_path):
    commands = [command(repo) for repo in ("some/whole", "some/shards") for command in (info, generate)]
    first = ask(hub.endpoint, tmp_path, *commands)
    assert [status for status, _, _ in first] == [0] * 4
    assert first[1][1] == text(folders["whole"]) and first[3][1] == text(folders["shards"])
    assert "37,824 as float32; 151.3 kB in 1 file(s)" in first[0][1] and "as bfloat16" in first[2][1]
    for name in ("model.safetensors", "tokenizer.json", "model-00002-of-00003.safetensors"):
        assert [wanted for wanted in hub.ranges(name) if wanted is None] == [None] * (1 + name.startswith("tok"))
    assert not [one for one in hub.asked if one.path.endswith(".bin")]  # a pickle is not even downloaded
    assert {name: content for name, content in kept(tmp_path).items() if "0" in name} == {
        path.name: path.read_bytes() for path in folders["shards"].glob("*0*")
    }

    for endpoint, offline in [(NOWHERE, ""), (hub.endpoint, "1")]:
        hub.asked.clear()
        assert ask(endpoint, tmp_path, *commands, HF_HUB_OFFLINE=offline) == first
        assert not hub.asked


def test_info_reads_headers_and_no_weights(hub, tmp_path):
    assert [status for status, _, _ in ask(hub.endpoint, tmp_path, info("some/large"), info("some/shards"))] == [0, 0]
    assert kept(tmp_path).keys() <= {"config.json", "model.safetensors.index.json"}
    assert hub.ranges("model.safetensors") == ["bytes=0-100000"]


def test_a_revision_is_a_branch_a_tag_or_a_commit_and_a_branch_may_move_on(hub, folders, tmp_path):
    commit = hub.publish("some/shards", folders["whole"], "gs555750", "v1")
    named = [generate("some/shards", "--revision", revision) for revision in ("gs555750", "v1", commit)]
    outcomes = ask(hub.endpoint, tmp_path, *named, generate("some/shards"))
    assert [out for _, out, _ in outcomes] == 3 * [text(folders["whole"])] + [text(folders["shards"])]

    hub.publish("some/shards", folders["whole"])  # under "main" now
    now, unknown = ask(hub.endpoint, tmp_path, generate("some/shards"), generate("some/shards", "--revision", "v2"))
    assert now[1] == text(folders["whole"])
    assert_error(unknown, "it has no revision 'v2'")
    assert ask(NOWHERE, tmp_path, *named, generate("some/shards")) == [*outcomes[:3], now]


# --- Downloads that break off ---


def test_a_connection_that_breaks_off_is_taken_up_where_it_was(hub, folders, tmp_path):
    hub.fail("/storage/.*/model.safetensors", cut(CHUNK + 2**20), times=1)
    outcome = ask(hub.endpoint, tmp_path, generate("some/large"))[0]
    if outcome[0]:  # huggingface_hub takes it up at once; old versions of it do at the next call
        outcome = ask(hub.endpoint, tmp_path, generate("some/large"))[0]
    assert outcome == (0, text(folders["large"]), "")
    assert hub.ranges("model.safetensors") == [None, f"bytes={CHUNK}-"]
    assert kept(tmp_path)["model.safetensors"] == (folders["large"] / "model.safetensors").read_bytes()


def test_what_breaks_off_for_good_is_an_error_and_the_next_call_fetches_the_rest(hub, folders, tmp_path):
    hub.fail("/storage/.*/model-00002-of-00003.safetensors", cut(1000))
    outcome = ask(hub.endpoint, tmp_path, generate("some/shards"))[0]
    assert_error(outcome, "cannot be downloaded (", "Try again: whole files are kept.")
    offline = ask(NOWHERE, tmp_path, generate("some/shards"))[0]
    assert_error(offline, "model-00002-of-00003.safetensors does not exist")
    assert_the_rest_follows(hub, folders, tmp_path)
    assert OLD or not list(tmp_path.rglob("*.incomplete"))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_in_the_middle_leaves_whole_files_and_the_next_fetches_the_rest(
    hub, folders, tmp_path, stop
):
    stall = Stall(1000)
    hub.fail("/storage/.*/model-00002-of-00003.safetensors", stall)
    process = start(hub.endpoint, tmp_path, generate("some/shards"))
    try:
        assert stall.reached.wait(120)
        process.send_signal(stop)
        out, err = process.communicate(timeout=PATIENCE)  # at once, though the hub has not said its last word
    finally:
        process.kill()
    assert (process.returncode, out) == ((130, b"") if stop == signal.SIGINT else (-signal.SIGKILL, b""))
    assert b"Traceback" not in err
    assert_the_rest_follows(hub, folders, tmp_path)


def assert_the_rest_follows(hub: Hub, folders: dict[str, Path], home: Path) -> None:
    """Shard 1 was there, shard 2 broke off; now that the hub works again, 2 and 3 are fetched, and all is well."""
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert names[0] in kept(home) and not kept(home).keys() & set(names[1:])
    hub.failures.clear()
    hub.asked.clear()
    assert ask(hub.endpoint, home, generate("some/shards"))[0] == (0, text(folders["shards"]), "")
    assert [hub.ranges(name) for name in names] == [[], [None], [None]]
    assert all(kept(home)[name] == (folders["shards"] / name).read_bytes() for name in names)


# --- Hubs that refuse, and hubs that are none ---


def test_what_the_hub_refuses_is_one_line_with_a_way_out(hub, tmp_path):
    hub.publish("some/pickle", hub.repos["some/pickle"]["main"], "old")
    hub.publish("some/gated", hub.repos["some/whole"]["main"])
    hub.publish("some/private", hub.repos["some/whole"]["main"])
    hub.gated.add("some/gated")
    hub.private.add("some/private")
    convert = 'from_pretrained("some/pickle"{}).save_pretrained("FOLDER", safe_serialization=True)'
    calls = [
        (generate("some/nothing"), ["does not exist or is private. Check the spelling, or use `hf auth login`."]),
        (generate("some/private"), ["does not exist or is private. Check the spelling, or use `hf auth login`."]),
        (generate("some/gated"), ["is gated. Accept its terms on its page, then use `hf auth login`."]),
        (info("some/gated"), ["is gated"]),
        (generate("some/pickle"), ["only as a pickle (pytorch_model.bin)", convert.format("")]),
        (info("some/pickle"), ["only as a pickle (pytorch_model.bin)", convert.format("")]),
        (info("some/pickle", "--revision", "old"), [convert.format(', revision="old"')]),
        (generate("some/pickle", "--revision", "old"), [convert.format(', revision="old"')]),
        (info("some--thing"), ["no name of a repository: Cannot have -- or .. in repo_id: 'some--thing'."]),
    ]
    outcomes = ask(hub.endpoint, tmp_path, *(command for command, _ in calls))
    for outcome, (_, said) in zip(outcomes, calls, strict=True):
        assert_error(outcome, *said)
    assert not [one for one in hub.asked if one.path.endswith(".bin")]


def test_a_token_opens_what_is_private_or_gated_and_is_shown_to_nobody_else(hub, folders, tmp_path):
    hub.gated.add("some/whole")
    hub.private.add("some/shards")
    outcomes = ask(
        hub.endpoint, tmp_path, generate("some/whole"), generate("some/shards"), info("some/shards"), HF_TOKEN=hub.token
    )
    assert [status for status, _, _ in outcomes] == [0, 0, 0]
    assert {one.token for one in hub.asked if one.path.startswith("/storage/")} == {None}
    wrong = ask(hub.endpoint, tmp_path / "other", generate("some/whole"), HF_TOKEN="hf_of_somebody_else")
    assert_error(wrong[0], "is gated. Accept its terms")


def test_without_a_hub_and_without_a_download_both_are_said(hub, tmp_path):
    assert ask(hub.endpoint, tmp_path, info("some/shards"))[0][0] == 0  # that repository's configuration is there now
    hub.asked.clear()
    commands = [generate("some/whole"), info("some/whole"), generate("some/shards"), info("some/shards")]
    for endpoint, offline, reason in [(NOWHERE, "", "refused"), (hub.endpoint, "1", "HF_HUB_OFFLINE")]:
        *outcomes, partly = ask(endpoint, tmp_path, *commands, HF_HUB_OFFLINE=offline)
        for outcome in outcomes:
            assert_error(outcome, "is no folder here, and as a repository on the hub", "it cannot be reached", reason)
            assert_error(outcome, "nor was it downloaded before", "give the path of a folder")
        assert_error(partly, "its weights cannot be read", reason)
    assert not hub.asked


HTML = say(200, b"<html>Please log in to this network.</html>", **{"Content-Type": "text/html"})
ABOUT, FILE, WEIGHTS = "/api/models/some/{}", "/some/{}/resolve/.*", "/storage/some/{}/.*/model.safetensors"
NONSENSE = "cannot be reached (what it answers is no hub's answer)"
# name: path that fails, method, how, and what is said of it; the rest of a reason is huggingface_hub's own.
FAILING: dict[str, tuple[str, str, Failure, list[str]]] = {
    "about-500": (ABOUT, "GET", say(500), ["cannot be reached (", "500"]),
    "about-403": (ABOUT, "GET", say(403), ["cannot be reached (", "403"]),
    "about-busy": (ABOUT, "GET", say(429), ["cannot be reached (", "429"]),
    "about-html": (ABOUT, "GET", HTML, [NONSENSE]),
    "about-list": (ABOUT, "GET", say(200, b"[]"), [NONSENSE]),
    "about-json": (ABOUT, "GET", say(200, b'{"message": 1}'), [NONSENSE]),
    "about-never": (ABOUT, "GET", silence, ["cannot be reached (", "timed out"]),
    "about-cut": (ABOUT, "GET", cut(10), ["cannot be reached ("]),
    "file-500": (FILE, "HEAD", say(500), ["cannot be downloaded (", "500"]),
    "file-html": (FILE, "HEAD", HTML, ["cannot be downloaded (", "check your firewall and proxy settings"]),
    "weights-500": (WEIGHTS, "GET", say(500), ["cannot be downloaded (", "500"]),
    "weights-html": (WEIGHTS, "GET", HTML, ["cannot be downloaded (Consistency check failed"]),
    "weights-none": (WEIGHTS, "GET", say(404), ["cannot be downloaded (", "404"]),
}


def test_a_hub_that_fails_is_one_line_and_what_was_downloaded_before_still_works(hub, folders, tmp_path):
    for name in FAILING:
        hub.publish(f"some/{name}", folders["whole"])
    fresh, before = tmp_path / "fresh", tmp_path / "before"
    commands = [generate(f"some/{name}") for name in FAILING]
    expected = [(0, text(folders["whole"]), "")] * len(commands)
    assert ask(hub.endpoint, before, *commands) == expected
    for name, (path, method, failure, _) in FAILING.items():
        hub.fail(path.format(name), failure, method)
    impatient = {"HF_HUB_ETAG_TIMEOUT": "1"}  # seconds; 10 unless it is said
    assert ask(hub.endpoint, before, *commands, **impatient) == expected
    for (_, _, _, said), outcome in zip(
        FAILING.values(), ask(hub.endpoint, fresh, *commands, **impatient), strict=True
    ):
        assert_error(outcome, "is no folder here, and as a repository on the hub", *said)
    assert "model.safetensors" not in kept(fresh) and not list(fresh.rglob("*.incomplete"))
    hub.failures.clear()
    assert ask(hub.endpoint, fresh, *commands) == expected


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def truncated(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


INDEX, SHARD = "model.safetensors.index.json", "model-00002-of-00003.safetensors"
HEADER = (2).to_bytes(8, "little")
# What is wrong with a repository: of which folder, what is done to it, and what `info` and `generate` say.
DAMAGES = [
    ("whole", truncated("model.safetensors"), None, "model.safetensors is truncated"),  # `info` reads its header alone
    ("whole", written("model.safetensors", b"short"), "holds a corrupt", "model.safetensors is truncated"),
    ("whole", written("model.safetensors", HEADER + b"{]"), "is not json-encoded", "is corrupt"),
    ("whole", written("model.safetensors", HEADER + b"[]"), "holds a corrupt model.safetensors", "is corrupt"),
    ("whole", without("config.json"), "it has no file config.json", "it has no file config.json"),
    ("whole", without("tokenizer.json"), None, "there is no file tokenizer.json"),
    ("shards", without(SHARD), "weights cannot be read (Entry Not Found for url", f"{SHARD} does not exist"),
    ("shards", written(INDEX, b"<html>"), f"a corrupt {INDEX}", "no valid JSON"),
    ("shards", written(INDEX, b'{"weight_map": [1]}'), f"a corrupt {INDEX}", "expected 'weight_map'"),
    ("shards", without(INDEX), "holds no model.safetensors, nor shards with an index", "holds neither"),
]


def test_a_repository_that_is_damaged_is_one_line(hub, folders, tmp_path):
    commands = []
    for i, (name, damage, _, _) in enumerate(DAMAGES):
        folder = tmp_path / str(i)
        folder.mkdir()
        for path in folders[name].iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        damage(folder)
        hub.publish(f"some/damaged{i}", folder)
        commands += [info(f"some/damaged{i}"), generate(f"some/damaged{i}")]
    outcomes = iter(ask(hub.endpoint, tmp_path / "home", *commands))
    for _, _, informs, generates in DAMAGES:
        told, generated = next(outcomes), next(outcomes)
        assert told[0] == 0 if informs is None else assert_error(told, informs) is None
        assert_error(generated, generates)
