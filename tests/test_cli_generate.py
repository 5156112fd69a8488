"""`minibloom generate`: every source of prompts, JSON lines, turns, and what Ctrl-C leaves."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from minibloom import BloomForCausalLM, BloomTokenizerFast
from minibloom.cli import main
from minibloom.cli_generate import as_options, moving
from minibloom.generation import Session, generate_text
from minibloom.generation.beams import Group

from . import tiny
from .runs import stderr_until


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that never ends a text."""
    return tiny.checkpoint(tmp_path_factory.mktemp("model"), eos_token_id=None, initializer_range=1.0)


@pytest.fixture(scope="module")
def loaded(model: Path) -> tuple[BloomForCausalLM, BloomTokenizerFast]:
    return BloomForCausalLM.from_pretrained(model), BloomTokenizerFast.from_pretrained(model)


def generate(model: Path, *arguments: str, says: int = 0) -> None:
    assert main(["generate", "--model", str(model), *arguments]) == says


def test_a_file_of_prompts_is_continued_in_batches_with_progress(model, loaded, tmp_path, capsys):
    prompts = ["the cat", "le chien dort", "猫", "for i", "the"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n\n", encoding="utf-8")
    generate(model, "--file", str(tmp_path / "prompts.txt"), "--max-new-tokens", "5", "--batch-size", "2", "--json")
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in shown.out.split("\n") if line]
    for line, one in zip(lines, generate_text(*loaded, prompts, max_new_tokens=5), strict=True):
        assert (line["prompt"], line["text"], line["ids"]) == (one.prompt, one.text, one.ids)
        assert line["log_probabilities"] == pytest.approx(one.log_probs, rel=1e-4)
        assert line["finish_reason"] == "length"
    assert "5/5" in shown.err
    generate(model, "--file", str(tmp_path / "prompts.txt"), "--max-new-tokens", "5")
    assert capsys.readouterr().out.startswith(lines[0]["prompt"] + lines[0]["text"] + "\n")


def test_a_prompt_of_a_file_that_cannot_be_continued_is_named_before_any_is(model, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("the\n\nthe cat sat on the mat and slept\n")
    more = ("--file", str(tmp_path / "prompts.txt"), "--max-length", "6")
    for size in ((), ("--batch-size", "1")):
        generate(model, *more, *size, says=2)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "prompt 2, 'the cat sat ...mat and slept': --max-length is 6, but the prompt has" in shown.err


@pytest.mark.parametrize(("source", "count"), [(["-"], 1), (["--file", "-"], 2)])
def test_standard_input_is_one_prompt_or_one_a_line(model, capsys, monkeypatch, source, count):
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat\nthe dog\n"))
    generate(model, *source, "--json", "--max-new-tokens", "2")
    prompts = [json.loads(line)["prompt"] for line in capsys.readouterr().out.splitlines()]
    assert prompts == (["the cat\nthe dog"] if count == 1 else ["the cat", "the dog"])


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # the second is what Python takes in the C locale
@pytest.mark.parametrize("source", [["-"], ["--file", "-"], ["--interactive"]])
def test_standard_input_that_is_not_utf8_is_said(model, capsys, monkeypatch, source, errors):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the \xff cat\n"), "utf-8", errors))
    generate(model, *source, says=2)
    assert capsys.readouterr().err == "minibloom generate: standard input is not UTF-8 text.\n"


@pytest.mark.parametrize("source", [["-"], ["--file", "-"], ["--file", "FILE"], ["--interactive"]])
def test_the_mark_that_some_editors_put_first_is_no_part_of_a_prompt(model, tmp_path, capsys, monkeypatch, source):
    text, file = b"\xef\xbb\xbfthe cat\r\n", tmp_path / "prompts.txt"
    file.write_bytes(text)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text), "utf-8"))
    generate(model, *(str(file) if word == "FILE" else word for word in source), "--json", "--max-new-tokens", "1")
    assert json.loads(capsys.readouterr().out)["prompt"] == "the cat"


def test_a_prompt_cache_is_made_once_and_read_by_every_prompt_that_begins_with_it(model, tmp_path, capsys, monkeypatch):
    file, new = tmp_path / "prompt.safetensors", ["--max-new-tokens", "4", "--json"]
    generate(model, "the cat", *new)
    plain = capsys.readouterr().out
    generate(model, "the cat", "--prompt-cache", str(file), *new)
    assert json.loads(capsys.readouterr().out)["ids"] == json.loads(plain)["ids"]
    kept = file.read_bytes()

    (tmp_path / "prompts.txt").write_text("the cat\nthe cat and the dog and so on\n")
    generate(model, "--file", str(tmp_path / "prompts.txt"), *new, "--batch-size", "1")
    without = [json.loads(line)["ids"] for line in capsys.readouterr().out.splitlines()]
    monkeypatch.setattr("minibloom.generation.prompt_cache.PromptCache.__init__", None)  # no prompt is read any more
    generate(model, "--file", str(tmp_path / "prompts.txt"), "--prompt-cache", str(file), *new)
    assert [json.loads(line)["ids"] for line in capsys.readouterr().out.splitlines()] == without
    assert file.read_bytes() == kept


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a dog", "--prompt-cache", "{made}"], "input_ids do not begin with"),
        (["--file", "{prompts}", "--prompt-cache", "{folder}/none"], "make it first, with one prompt"),
        (["a", "--prompt-cache", "{folder}"], "expected the name of a file"),
        (["a", "--prompt-cache", "{folder}/none/none"], "expected the name of a file"),
        (["a", "--prompt-cache", "{prompts}"], "prompts.txt"),
        (["a", "--prompt-cache", "{made}", "--window", "5"], "leave out --interactive and --window"),
        (["--interactive", "--prompt-cache", "{made}"], "leave out --interactive and --window"),
    ],
)
def test_a_prompt_cache_that_cannot_serve_is_an_error(model, tmp_path, capsys, arguments, says):
    places = {"folder": tmp_path, "made": tmp_path / "made", "prompts": tmp_path / "prompts.txt"}
    places["prompts"].write_text("the cat\nthe dog\n")
    generate(model, "the cat", "--prompt-cache", str(places["made"]), "--max-new-tokens", "1")
    capsys.readouterr()
    generate(model, *(word.format(**places) for word in arguments), says=2)
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--window", "9"], ["--prompt-lookup-num-tokens", "3"]])
def test_turns_are_of_one_text(model, loaded, capsys, monkeypatch, options):
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat\n\n sat\n"))
    generate(model, "--interactive", "--max-new-tokens", "4", *options)
    if "--window" not in options:
        session = Session(*loaded, max_new_tokens=4)
        expected = ["".join(session.turn(line)) for line in ("the cat", " sat")]
        assert capsys.readouterr().out == "".join(text + "\n" for text in expected)
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat\n sat\n"))
    capsys.readouterr()
    generate(model, "--interactive", "--json", "--max-new-tokens", "4", *options)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["prompt"] for line in lines] == ["the cat", " sat"]
    for line in lines:  # with all that the lines of other prompts have
        assert len(line["ids"]) == len(line["log_probabilities"]) == 4 and line["finish_reason"] == "length"
    generate(model, "the cat", "--json", "--max-new-tokens", "4")
    plain = json.loads(capsys.readouterr().out)
    assert [*lines[0]] == [*plain]
    if not options:
        assert lines[0] == {**plain, "log_probabilities": pytest.approx(plain["log_probabilities"])}


def test_a_turn_is_told_at_once_to_a_program_that_waits_for_it(model):
    process = subprocess.Popen(
        [*tiny.COMMAND, "generate", "--model", str(model), "--interactive", "--json", "--max-new-tokens", "3"],
        env=os.environ | tiny.ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin and process.stdout
    waits = threading.Timer(60, process.kill)
    waits.start()
    try:
        for prompt in ("the cat", " sat"):
            process.stdin.write(prompt.encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["prompt"] == prompt
        process.communicate()
    finally:
        waits.cancel()


def test_beams_that_there_are_too_few_of_are_valid_json_too(model, capsys):
    options = ["--num-beams", "400", "--num-return-sequences", "400", "--max-new-tokens", "1", "--json"]
    generate(model, "the", *options)
    lines = [json.loads(line, parse_constant=pytest.fail) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 400 and [line["score"] is None for line in lines] == [not line["ids"] for line in lines]
    assert lines[-1]["ids"] == []  # the vocabulary has fewer tokens


def test_a_warning_is_a_line_that_names_options(model, capsys):
    """Whichever way the word is written, a token of it comes twice."""
    options = ["--num-beams", "2", "--force-word", "nn", "--no-repeat-ngram-size", "1", "--max-new-tokens", "5"]
    generate(model, "the", *options)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "minibloom generate: --force-word is not all there behind prompt 0: other settings, or what little room there "
        "is, rule it out."
    ]


# --- Progress ---


@pytest.mark.parametrize(
    "settings",
    [{}, {"do_sample": True, "num_return_sequences": 2}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 2},
     {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, {"penalty_alpha": 0.5}],
)  # fmt: skip
def test_a_bar_moves_with_every_token_and_changes_nothing(loaded, settings):
    common = settings | {"max_new_tokens": 7} | ({"seed": 1} if "do_sample" in settings else {})
    with tqdm(file=io.StringIO()) as bar:
        watched = generate_text(*loaded, ["the cat", "le"], **common, stopping_criteria=moving(bar))
        assert bar.n == 7
    assert watched == generate_text(*loaded, ["the cat", "le"], **common)


@pytest.mark.parametrize("terminal", [True, False])
def test_one_batch_shows_its_progress_in_a_terminal(model, capsys, monkeypatch, terminal):
    monkeypatch.setattr("minibloom.cli_generate.PATIENCE", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    generate(model, "the cat", "--json", "--max-new-tokens", "5")
    shown = capsys.readouterr()
    assert ("/5 [" in shown.err) == terminal and json.loads(shown.out)["finish_reason"] == "length"


# --- The model's own file ---


def with_file(model: Path, folder: Path, values: dict[str, Any]) -> Path:
    """A copy of the checkpoint with settings of its own."""
    shutil.copytree(model, folder)
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("values", "options", "asked"),
    [
        ({"do_sample": True, "top_p": 0.9}, ["--temperature", "0.7", "--seed", "3"], {"temperature": 0.7, "seed": 3}),
        ({"do_sample": True, "num_return_sequences": 3}, ["--seed", "3"], {"seed": 3}),
        ({"num_beams": 3}, [], {}),
        ({"num_beams": 3}, ["--num-beams", "1", "--interactive"], {"num_beams": 1}),
        ({"num_beams": 3, "num_return_sequences": 2}, ["--length-penalty", "2"], {"length_penalty": 2}),
        ({"do_sample": True}, ["--no-do-sample"], {"do_sample": False}),
    ],
)
def test_the_models_own_file_says_what_no_option_says(model, tmp_path, capsys, monkeypatch, values, options, asked):
    folder = with_file(model, tmp_path / "model", values | {"max_new_tokens": 3})
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat\n"))
    generate(folder, *(["the cat"] if "--interactive" not in options else []), "--json", *options)
    ids = [json.loads(line)["ids"] for line in capsys.readouterr().out.splitlines()]
    loaded = BloomForCausalLM.from_pretrained(folder), BloomTokenizerFast.from_pretrained(folder)
    assert ids == [one.ids for one in generate_text(*loaded, ["the cat"], **asked)]
    assert len(ids) == values.get("num_return_sequences", 1) and all(len(row) == 3 for row in ids)


def test_the_words_of_a_file_and_those_of_options_are_not_mixed_up(model, tmp_path, capsys):
    folder = with_file(model, tmp_path / "model", {"suppress_tokens": [0, 1], "max_new_tokens": 9})
    generate(folder, "the", "--num-beams", "2", "--force-word", "chat")
    assert "chat" in capsys.readouterr().out


def test_without_any_length_a_hundred_tokens_are_written(model, tmp_path, capsys):
    generate(model, "the cat", "--json")
    assert len(json.loads(capsys.readouterr().out)["ids"]) == 100
    generate(with_file(model, tmp_path / "model", {"max_length": 20}), "the cat", "--json")
    ids = BloomTokenizerFast.from_pretrained(model)("the cat")["input_ids"]
    assert len(json.loads(capsys.readouterr().out)["ids"]) == 20 - len(ids)


@pytest.mark.parametrize(
    ("values", "options", "says"),
    [
        ({"num_beams": 3}, ["--interactive"], "leave out --interactive, or give --num-beams 1"),
        ({"num_beams": 3}, ["a", "--num-return-sequences", "4"], "more than --num-beams, which is 3"),
        ({"dola_layers": "low"}, ["a"], "generation_config.json: dola_layers is 'low'"),
        ({}, ["a", "--seed", "3"], "--seed is 3 but --do-sample is False"),
        ({"do_sample": True}, ["a", "--no-do-sample", "--seed", "3"], "--seed is 3 but --do-sample is False"),
    ],
)
def test_what_the_file_does_not_allow_is_said_before_weights_are_read(
    model, tmp_path, capsys, monkeypatch, values, options, says
):
    folder = with_file(model, tmp_path / "model", values)
    monkeypatch.setattr(BloomForCausalLM, "from_pretrained", None)
    generate(folder, *options, says=2)
    assert says in capsys.readouterr().err


# --- Draws ---


def test_draws_go_on_from_batch_to_batch_and_from_turn_to_turn(model, tmp_path, capsys, monkeypatch):
    (tmp_path / "prompts.txt").write_text("the cat\n" * 3)
    sampled = ["--do-sample", "--temperature", "5", "--max-new-tokens", "8", "--json", "--seed", "1"]
    runs = []
    for _ in range(2):
        generate(model, "--file", str(tmp_path / "prompts.txt"), "--batch-size", "1", *sampled)
        runs.append([json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()])
    generate(model, "the cat", *sampled)
    assert runs[0] == runs[1] and len(set(runs[0])) == 3
    assert json.loads(capsys.readouterr().out)["text"] == runs[0][0]  # the first is as if it were alone
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat\nthe cat\n"))
    generate(model, "--interactive", *sampled, "--window", "2")  # which hides that a turn was before
    first, second = (json.loads(line)["ids"] for line in capsys.readouterr().out.splitlines())
    assert first != second


def test_words_are_given_as_text(model, capsys):
    generate(model, "the", "--max-new-tokens", "6", "--num-beams", "3", "--force-word", "chat", "--bad-word", "cat")
    out = capsys.readouterr().out
    assert "chat" in out and "cat" not in out
    generate(model, "the", "--max-new-tokens", "50", "--stop", out[4:6])
    assert len(capsys.readouterr().out) < 400


def test_a_bias_is_of_a_word_and_ids_are_given_as_numbers(model, loaded, capsys):
    generate(model, "the", "--json", "--max-length", "9", "--logit-bias", "t", "1e9", "--logit-bias", "cat", "-3.5")
    biases = {
        tuple(loaded[1](form)["input_ids"]): bias for t, bias in (("t", 1e9), ("cat", -3.5)) for form in (t, " " + t)
    }
    (expected,) = generate_text(*loaded, ["the"], max_length=9, sequence_bias=biases)
    assert json.loads(capsys.readouterr().out)["text"] == expected.text and "t" in expected.text
    told = []
    for options in ([], ["--suppress-token", "{1}", "--suppress-token", "9"], ["--eos-token-id", "{1}"]):
        options = [word.format(*told[0]["ids"]) if told else word for word in options]
        generate(model, "for i", "--json", "--max-new-tokens", "4", *options)
        told.append(json.loads(capsys.readouterr().out))
    assert told[1]["ids"][0] == told[0]["ids"][0] and told[0]["ids"][1] not in told[1]["ids"]
    assert told[2]["ids"] == told[0]["ids"][:2] and told[2]["finish_reason"] == "stop token"


@pytest.mark.parametrize("cutoff", ["top-h", "epsilon-cutoff", "eta-cutoff"])
def test_a_cutoff_reaches_the_draws(model, loaded, capsys, cutoff):
    sampled = ["the", "--do-sample", "--seed", "1", "--temperature", "9", "--max-new-tokens", "12"]
    shown = []
    for more in ([], [f"--{cutoff}", "0.5"]):
        generate(model, *sampled, *more)
        shown.append(capsys.readouterr().out)
    settings = {"do_sample": True, "seed": 1, "temperature": 9.0, "max_new_tokens": 12}
    (expected,) = generate_text(*loaded, ["the"], **settings, **{cutoff.replace("-", "_"): 0.5})
    assert shown[0] != shown[1] == f"the{expected.text}\n"


def test_errors_name_options_and_leave_all_else_as_it_is():
    assert as_options("top_k is 5 but do_sample is False: seed is 3.") == (
        "--top-k is 5 but --do-sample is False: --seed is 3."
    )
    assert as_options("bad_words_ids, sequence_bias") == "--bad-word, --logit-bias"
    for message in ("a/generation_config.json: top_k is -1.", "/top_k/seed/top_p does not exist.", "'top_k' and seed"):
        assert as_options(message) == message


def test_a_draft_model_changes_nothing(model, tmp_path, capsys):
    other = tiny.checkpoint(tmp_path, eos_token_id=None, n_layer=1)
    shown = []
    for options in ([], ["--assistant", str(other)]):
        generate(model, "the cat", "--max-new-tokens", "12", *options)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "prompt, or one of --file and --interactive"),
        (["the", "--interactive"], "give only one of a prompt, --file and --interactive"),
        (["--interactive", "--num-beams", "3"], "leave out --interactive"),
        (["--interactive", "--do-sample", "--num-return-sequences", "3"], "leave out --interactive"),
        (["--file", "no-such-file"], "no-such-file cannot be read"),
        (["the", "--stop", ""], "--stop is"),
        (
            ["the", "--num-beams", "2", "--do-sample", "--num-beam-groups", "2"],
            "--diversity-penalty is 0.0 and --num-beam-groups is 2",
        ),
        (["the", "--force-word", "cat"], "--force-word is [[['cat']]] but --num-beams is 1"),
        (["the", "--num-beams", "2", "--force-word", "cat", "--bad-word", "cat"], "ruled out by --bad-word"),
        (["the", "--bad-word", " "], "one of them is empty"),
        (["the", "--logit-bias", "", "1"], "one of them is empty"),
        (["the", "--logit-bias", "cat", "dog"], "--logit-bias ends in 'dog', expected a text and a finite number"),
        (["the", "--logit-bias", "cat", "inf"], "--logit-bias ends in 'inf', expected a text and a finite number"),
        (["the", "--eos-token-id", "-1"], "--eos-token-id is [-1], expected"),
        (["the", "--suppress-token", "999"], "--suppress-token holds 999, expected ids from 0 to 383"),
        (["the", "--max-length", "9", "--max-new-tokens", "9"], "--max-new-tokens is 9 and --max-length is 9"),
        (["--file", __file__, "--batch-size", "0"], "--batch-size is 0"),
        (["the", "--batch-size", "2"], "--batch-size is 2, but only prompts of --file run together: leave it out"),
        (["--interactive", "--batch-size", "2"], "--batch-size is 2, but only prompts of --file run together"),
        (["the", "--window", "0"], "--window is 0"),
        (
            ["the", "--window", "4", "--prompt-lookup-num-tokens", "2"],
            "--window and --prompt-lookup-num-tokens are both",
        ),
        (["the", "--window", "4", "--assistant", "x"], "--window and --assistant are both set"),
        (
            ["the", "--prompt-cache", "x", "--penalty-alpha", "0.5"],
            "--prompt-cache holds no hidden states, and --penalty",
        ),
        (["the", "--num-beams", "100000000"], "--max-new-tokens is 100 and --num-beams is 100000000: keys, values"),
        (["the", "--max-new-tokens", "2000000000"], "--max-new-tokens is 2000000000: keys, values and logits"),
        (["the", "--stop", "\udcff"], "--stop is ['\\udcff'], expected"),
        (["the", "--num-beams", "0"], "--num-beams is 0, expected a whole number of at least 1.\n"),
        (["--file", "-"], "standard input holds no prompt"),
        (["the", "--early-stopping", "soon", "--num-beams", "2"], "--early-stopping is 'soon'"),
        (["the", "--penalty-alpha", "0.5", "--window", "4", "--prompt-lookup-num-tokens", "2"], "--penalty-alpha"),
    ],
)
def test_what_cannot_be_done_is_one_line(model, capsys, monkeypatch, arguments, says):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    try:
        status = main(["generate", "--model", str(model), *arguments])
    except SystemExit as stop:
        status = int(stop.code or 0)
    shown = capsys.readouterr()
    assert status == 2 and shown.out == "" and shown.err.count("\n") == 1 and says in shown.err


# `minibloom ...` with a dot on standard error for each piece of text: no clock tells when it has begun to write.
WITH_DOTS = """
import functools, sys
from minibloom import cli, cli_generate
def dot(*_): print(".", end="", file=sys.stderr, flush=True)
cli_generate.generate_text = functools.partial(cli_generate.generate_text, callback=dot)
sys.exit(cli.main(sys.argv[1:]))
"""


def test_ctrl_c_keeps_what_was_generated(model, monkeypatch):
    monkeypatch.setattr(tiny, "COMMAND", [sys.executable, "-c", WITH_DOTS])
    process = tiny.start("generate", "--model", model, "the cat", "--json", "--max-new-tokens", 10**6)
    stderr_until(process, b"..")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130 and err.strip(b".\n") == b""
    line = json.loads(out)
    assert line["finish_reason"] is None and len(line["ids"]) > 1 and line["prompt"] == "the cat"


def test_ctrl_c_keeps_what_beams_had(model, tmp_path, capsys, monkeypatch):
    (tmp_path / "prompts.txt").write_text("the cat\nle chien\n")
    steps = iter(range(5))
    advance = Group.advance

    def advances(*arguments: Any) -> list[int]:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return advance(*arguments)

    monkeypatch.setattr(Group, "advance", advances)
    generate(model, "--file", str(tmp_path / "prompts.txt"), "--num-beams", "2", "--json", says=130)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["prompt"], line["finish_reason"]) for line in lines] == [("the cat", None), ("le chien", None)]
    assert all(len(line["ids"]) >= 2 for line in lines)
