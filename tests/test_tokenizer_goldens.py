"""The tokenizer against the documented oracle, transformers 4.35.2's BloomTokenizerFast.

Everywhere against what it answered when `make_tokenizer_goldens.py` was run; live where the environment variable
MINIBLOOM_DOCUMENTED_PYTHON names a python that has it. On what the two differ on purpose, and why, is a page of its
own: `QUIRKS` in `tokenizer_cases.py`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibloom import BloomTokenizerFast

from .make_tokenizer_goldens import COMMAND, GOLDENS, PROBES, ROOT, write_files
from .tokenizer_cases import (
    KEYWORDS,
    OPTIONS,
    QUIRKS,
    SAVED,
    TEXTS,
    VOCAB_SIZE,
    Request,
    answer,
    call,
    opened,
    request,
    requests,
    reusing,
)

MADE = json.loads(GOLDENS.read_text(encoding="utf-8"))
AGAIN = f"make the goldens again: {COMMAND}"
PYTHON = os.environ.get("MINIBLOOM_DOCUMENTED_PYTHON")
NOT_LIVE = "MINIBLOOM_DOCUMENTED_PYTHON names no python with transformers 4.35.2"


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    return write_files(MADE["small"], tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="module")
def ask(places) -> Callable[[Request], dict[str, Any]]:
    """minibloom's answer to a request, through JSON as the oracle's has gone."""
    reused = reusing(partial(opened, BloomTokenizerFast))

    def asking(asked: Request) -> dict[str, Any]:
        place = places.get(asked["tokenizer"], asked["tokenizer"])
        return json.loads(json.dumps(answer(reused, asked | {"tokenizer": place})))

    return asking


# What minibloom refuses though the oracle answers: see the quirks.
REFUSED = re.compile("InputError: (.* make no array|truncation='only_second' needs a text_pair|stride is)")


def alike(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """The same answer; where the oracle raises anything, minibloom raises an InputError."""
    error = ours.get("error", "")
    return error.startswith("InputError: ") if "error" in theirs else ours == theirs or bool(REFUSED.match(error))


def test_goldens_answer_what_is_asked_today_and_say_where_they_are_from():
    assert [asked for asked, _ in MADE["cases"]] == requests(), AGAIN
    assert [asked for asked, _ in MADE["quirks"]] == [quirk.request for quirk in QUIRKS], AGAIN
    assert MADE["about"]["oracle"].startswith("transformers 4.35.2")
    assert MADE["about"]["command"] == COMMAND
    assert GOLDENS.stat().st_size < 200_000


def test_every_golden(ask):
    refused = 0
    for asked, theirs in MADE["cases"]:
        ours = ask(asked)
        assert alike(ours, theirs), f"{asked}\noracle    {theirs}\nminibloom {ours}\nIf what ships has changed, {AGAIN}"
        refused += "error" in ours
    assert refused < len(MADE["cases"]) / 10


@pytest.mark.parametrize("number", range(len(QUIRKS)), ids=[quirk.why for quirk in QUIRKS])
def test_quirks(ask, number):
    quirk, (asked, theirs) = QUIRKS[number], MADE["quirks"][number]
    for expected, said in ((quirk.oracle, theirs), (quirk.minibloom, ask(asked))):
        if isinstance(expected, str) and expected.startswith("!"):
            assert said.get("error", "").startswith(expected[1:])
        else:
            assert said == {"answer": expected}


@pytest.mark.parametrize("files", MADE["saved"], ids=lambda files: str(files["options"]))
def test_what_the_oracle_saved_is_read_alike(ask, files, tmp_path):
    for name, content in files["files"].items():
        whole = content | {"model": MADE["small"]["model"]} if name == "tokenizer.json" else content
        (tmp_path / name).write_text(json.dumps(whole), encoding="utf-8")
    for probe, theirs in files["answers"]:
        assert alike(ask(probe | {"tokenizer": str(tmp_path), "options": files["options"]}), theirs), probe


def test_training_learns_the_same_tokens_as_the_tokenizers_library_of_then():
    ours = BloomTokenizerFast.train(TEXTS, VOCAB_SIZE)
    assert ours.get_vocab() == MADE["small"]["model"]["vocab"]


# --- Live ---


@pytest.fixture(scope="module")
def oracle(places) -> Iterator[Callable[[Request], dict[str, Any]]]:
    """The oracle's answer to a request, from its process."""
    if not PYTHON:
        pytest.skip(NOT_LIVE)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [PYTHON, "-m", "tests.make_tokenizer_goldens", "--answer"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "RUST_BACKTRACE": "0"},
            text=True,
        )

        def asking(asked: Request) -> dict[str, Any]:
            place = places.get(asked["tokenizer"], asked["tokenizer"])
            process.stdin.write(json.dumps(asked | {"tokenizer": place}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                errors.seek(0)
                raise RuntimeError(f"{PYTHON} answers no more: {errors.read()[-2000:]}")
            return json.loads(line)

        yield asking
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


characters = st.characters(exclude_categories=["Cs"])  # any Unicode but surrogates, which are no characters
pieces = st.sampled_from(
    [*" \n\t,.!?()|[]'…。，、।۔،", "\u200d", "  ", " lamp", "</s>", "<pad>", "\r\n", "é", "😀", "Ġ"]
)
texts = st.lists(characters | pieces, max_size=15).map("".join)


@st.composite
def calls(draw: st.DrawFn) -> Request:
    """Any call: texts or words, with pairs or without, one or several."""
    split, B = draw(st.booleans()), draw(st.integers(1, 3))
    kind: st.SearchStrategy[Any] = st.lists(texts, max_size=3) if split else texts
    columns = [draw(st.lists(kind, min_size=B, max_size=B)) for _ in range(draw(st.integers(1, 2)))]
    keywords = draw(st.fixed_dictionaries({}, optional={n: st.sampled_from(v) for n, v in KEYWORDS.items()}))
    options = draw(st.fixed_dictionaries({}, optional={n: st.sampled_from(v) for n, v in OPTIONS.items()}))
    options["padding_side"] = draw(st.sampled_from(["left", "right"]))
    tokenizer = "small"
    if split:
        options["add_prefix_space"] = keywords["is_split_into_words"] = True
    elif not options.get("add_prefix_space"):
        tokenizer = draw(st.sampled_from(["small", "shipped", "exact"]))
    arguments = columns if draw(st.booleans()) else [column[0] for column in columns]
    return call(*arguments, options=options, **keywords) | {"tokenizer": tokenizer}


@given(asked=calls())
@settings(max_examples=500)
def test_any_call_is_answered_alike(ask, oracle, asked):
    assert alike(ask(asked), oracle(asked))


@given(ids=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=30), skip=st.booleans(), clean_up=st.booleans())
def test_any_ids_are_decoded_alike(ask, oracle, ids, skip, clean_up):
    asked = request(["decode", [ids, skip, clean_up]])
    assert alike(ask(asked), oracle(asked))


@pytest.mark.parametrize("number", range(len(SAVED)))
def test_what_minibloom_saves_the_oracle_reads_alike(ask, oracle, tmp_path, number):
    asked, options = SAVED[number]
    assert "answer" in ask(asked | {"steps": [*asked["steps"], ["save_pretrained", [str(tmp_path)], {}]]})
    for probe in PROBES:
        again = probe | {"tokenizer": str(tmp_path), "options": options}
        assert alike(ask(again), oracle(again)), probe


def test_the_goldens_are_what_the_oracle_answers_today(oracle):
    for asked, theirs in MADE["cases"] + MADE["quirks"]:
        assert oracle(asked) == theirs, AGAIN
