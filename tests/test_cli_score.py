"""`minibloom score`: the figures of `generation.scoring`, as lines and as JSON, from every source of text."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from minibloom import BloomForCausalLM, BloomTokenizerFast
from minibloom.cli import main
from minibloom.generation import perplexity, token_log_probs

from . import tiny

TEXT = "the cat sat on 猫, and so on\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("model"), initializer_range=1.0)


def score(model: Path, *arguments: str, says: int = 0) -> None:
    assert main(["score", "--model", str(model), *arguments]) == says


@pytest.mark.parametrize("options", [{}, {"window": 5}, {"window": 6, "stride": 2}])
def test_a_text_is_scored_as_in_python(model, capsys, options):
    loaded, tokenizer = BloomForCausalLM.from_pretrained(model), BloomTokenizerFast.from_pretrained(model)
    ids = tokenizer(TEXT)["input_ids"]
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    score(model, TEXT, "--json", *given)
    told = json.loads(capsys.readouterr().out)
    assert told["text"] == TEXT and told["ids"] == ids and told["tokens"] == [tokenizer.decode([i]) for i in ids]
    assert told["log_probabilities"] == [None, *token_log_probs(loaded, [ids], **options)[0].tolist()]
    assert told["perplexity"] == pytest.approx(perplexity(loaded, [ids], **options))

    score(model, TEXT, *given)
    _, first, *lines, last = capsys.readouterr().out.splitlines()
    assert first.split() == [repr(told["tokens"][0])] and len(lines) == len(ids) - 1
    assert [float(line.split()[0]) for line in lines] == [round(x, 4) for x in told["log_probabilities"][1:]]
    assert last == f"perplexity {told['perplexity']:.4f} a token, over {len(ids) - 1} tokens"


def test_a_perplexity_beyond_all_numbers_is_valid_json_too(tmp_path, capsys):
    folder = tiny.checkpoint(tmp_path, initializer_range=1.0)
    model = BloomForCausalLM.from_pretrained(folder)
    model.params["ln_f.weight"] *= 100
    model.save_pretrained(folder)
    score(folder, TEXT, "--json")
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told["perplexity"] is None and min(told["log_probabilities"][1:]) < -800
    score(folder, TEXT)
    assert capsys.readouterr().out.splitlines()[-1].startswith("perplexity inf a token")


def test_a_text_comes_from_a_file_or_standard_input(model, tmp_path, capsys, monkeypatch):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    shown = []
    for source in ([TEXT], ["--file", str(tmp_path / "text.txt")], ["-"]):
        score(model, *source)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] == shown[2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give one of a text and --file"),
        (["a", "--file", "b"], "give one of a text and --file"),
        ([""], "the text is empty"),
        (["t"], "the text has one token"),
        (["--file", "no-such-file"], "no-such-file cannot be read"),
        (["the cat", "--window", "1"], "window is 1"),
        (["the cat", "--window", "4", "--stride", "4"], "stride is 4, expected less than window"),
    ],
)
def test_what_cannot_be_scored_is_one_line(model, capsys, monkeypatch, arguments, says):
    if arguments != ["t"]:  # whose tokens are known only then, no model is loaded for it
        monkeypatch.setattr(BloomForCausalLM, "from_pretrained", None)
    try:
        status = main(["score", "--model", str(model), *arguments])
    except SystemExit as stop:
        status = int(stop.code or 0)
    shown = capsys.readouterr()
    assert status == 2 and shown.out == "" and shown.err.count("\n") == 1 and says in shown.err
