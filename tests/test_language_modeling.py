"""Language modelling: text to batches that read each token once, from anywhere on, and its evaluation."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import numpy
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minibloom import BloomForCausalLM, BloomTokenizerFast
from minibloom.errors import InputError
from minibloom.language_modeling import LanguageModeling, batches, evaluate, read_documents, tokenize
from minibloom.settings import TrainingSettings

from . import tiny
from .runs import write


@st.composite
def numbered(draw: st.DrawFn) -> list[numpy.ndarray]:
    """Documents whose tokens are all different: 0, 1, 2, ... through all of them."""
    ends = numpy.cumsum(draw(st.lists(st.integers(1, 40), min_size=1, max_size=6)))
    return [numpy.arange(a, b) for a, b in zip([0, *ends], ends, strict=False)]


def test_a_tokenizer_without_a_token_that_ends_a_text_is_refused(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    endless = BloomTokenizerFast.from_pretrained(tmp_path, eos_token=None)
    with pytest.raises(InputError, match="the tokenizer has no eos_token.*eos_token='</s>'"):
        tokenize({"a.txt": "the cat"}, endless)


@given(
    documents=numbered(),
    width=st.integers(2, 9),
    size=st.integers(1, 4),
    seed=st.integers(0, 9),
    skip=st.integers(0, 30),
)
def test_an_epoch_reads_each_token_at_most_once_and_starts_anywhere(documents, width, size, seed, skip):
    s = TrainingSettings(context_length=width, batch_size=size, seed=seed)
    count = sum(map(len, documents))
    per_epoch = count // (width * size)
    assume(per_epoch)
    source = batches(documents, s)
    run = [next(source) for _ in range(skip + 2 * per_epoch)]
    for epoch in range(len(run) // per_epoch):
        tokens = numpy.concatenate(run[epoch * per_epoch : (epoch + 1) * per_epoch]).ravel()
        assert len(tokens) == len(set(tokens.tolist())) == per_epoch * size * width
    beginnings = {int(document[0]) for document in documents}
    for batch in run:
        assert batch.shape == (size, width)
        for row in batch.tolist():  # a piece of text: a document goes on to its end, and then another one begins
            assert all(b == a + 1 or (b in beginnings and a + 1 in {*beginnings, count}) for a, b in pairwise(row))
    later = batches(documents, s, skip)
    numpy.testing.assert_array_equal([next(later) for _ in range(per_epoch)], run[skip : skip + per_epoch])


@given(documents=numbered(), width=st.integers(2, 9), size=st.integers(1, 3), skip=st.integers(0, 12))
def test_whole_documents_each_begin_a_row_at_most_once_an_epoch(documents, width, size, skip):
    s = TrainingSettings(context_length=width, batch_size=size, whole_documents=True)
    count = sum(map(len, documents))
    assume(len(documents) >= size and count >= width)
    per_epoch = len(documents) // size
    source = batches(documents, s)
    run = [next(source) for _ in range(skip + 2 * per_epoch)]
    beginnings = {int(document[0]) for document in documents}
    for epoch in range(len(run) // per_epoch):
        rows = numpy.concatenate(run[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert rows.shape == (per_epoch * size, width)
        assert len(set(rows[:, 0].tolist())) == len(rows) and set(rows[:, 0].tolist()) <= beginnings
        for row in rows.tolist():  # the document goes on to its end, and then another one begins
            assert all(b == a + 1 or (b in beginnings and a + 1 in {*beginnings, count}) for a, b in pairwise(row))
    later = batches(documents, s, skip)
    numpy.testing.assert_array_equal([next(later) for _ in range(per_epoch)], run[skip : skip + per_epoch])


def test_epochs_and_seeds_differ_in_order():
    s = TrainingSettings(context_length=5, batch_size=40)
    one = [numpy.arange(200)]
    source = batches(one, s)
    first, second, other = next(source), next(source), next(batches(one, dataclasses.replace(s, seed=1)))
    assert not numpy.array_equal(first, second) and not numpy.array_equal(first, other)
    assert {tuple(row) for row in first.tolist()} == {tuple(row) for row in second.tolist()}  # rows change places
    # Documents are shuffled before they are joined: then what stands in the rows changes too.
    source = batches([numpy.arange(50 * i, 50 * i + 47 + i) for i in range(4)], dataclasses.replace(s, batch_size=38))
    epochs = [{tuple(row) for row in next(source).tolist()} for _ in range(4)]
    assert any(epoch != epochs[0] for epoch in epochs)


def test_too_little_text_is_said_at_the_call():
    for options in ({}, {"whole_documents": True}):
        with pytest.raises(InputError, match="the text has 19 tokens .* too few for one batch of 2 rows of 10"):
            batches([numpy.arange(19)], TrainingSettings(batch_size=2, context_length=10, **options))


def test_documents_are_the_text_files_of_a_folder_in_order_of_path(tmp_path):
    files = {
        "b.txt": b"second",
        "a/z.txt": "日本".encode(),
        "a/mark.txt": b"\xef\xbb\xbfmarked",  # as some editors begin a file
        "empty.txt": b" \n",
        ".hidden": b"\xff",
        ".git/x": b"\xff",
    }
    assert list(read_documents(write(tmp_path, files)).items()) == [
        ("a/mark.txt", "marked"),
        ("a/z.txt", "日本"),
        ("b.txt", "second"),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a/b.txt": b"fine", "a/c.bin": b"ab\xff"}, r"c\.bin is not UTF-8 text \(byte 2\)"),
        ({".hidden": b"text", "empty": b""}, "holds no text"),
        (None, "is no folder"),
    ],
)
def test_a_folder_without_text_is_refused(tmp_path, files, message):
    folder = tmp_path / "absent" if files is None else write(tmp_path, files)
    with pytest.raises(InputError, match=message) as error:
        read_documents(folder)
    assert str(folder) in str(error.value)


def test_each_document_ends_with_the_end_token():
    tokenizer = tiny.tokenizer()
    ids = tokenize({"one": "the cat", "two": "el"}, tokenizer)
    assert [row[-1] for row in ids] == [tokenizer.eos_token_id] * 2
    assert [tokenizer.decode(row[:-1]) for row in ids] == ["the cat", "el"]


class Recorder:
    """Stands for a model whose loss is 1 for every token, and notes what it was asked to predict."""

    xp = numpy

    def __init__(self) -> None:
        self.predicted: list[int] = []

    def __call__(self, window: numpy.ndarray, labels: numpy.ndarray, **_: bool) -> Any:
        assert window is labels and len(window) == 1
        self.predicted += window[0, 1:].tolist()
        self.widest = window.shape[1]
        return type("Out", (), {"loss": numpy.float32(1)})


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4), context=st.integers(2, 12))
def test_evaluation_counts_every_token_once(lengths, context):
    documents = [numpy.array([*range(10, 9 + n), 2]) for n in lengths]  # each ends with token 2
    model = Recorder()
    assert evaluate(model, documents, context) == (sum(lengths), sum(lengths))
    assert model.predicted == [i for document in documents for i in document.tolist()]
    assert model.widest <= context + 1


def test_evaluation_is_the_models_own_loss():
    model = BloomForCausalLM(tiny.config(), dtype="float64")
    document = numpy.array([5, 6, 7, 8, 2])
    whole = numpy.array([[2, 5, 6, 7, 8, 2]])
    nats, count = evaluate(model, [document], 10)
    assert nats / count == pytest.approx(float(model(whole, labels=whole).loss), rel=1e-12)


def test_the_task_predicts_its_own_rows_and_measures_what_is_held_out():
    documents, s = [numpy.arange(40), numpy.arange(40, 90)], TrainingSettings(batch_size=2, context_length=8)
    batch = next(LanguageModeling(documents).batches(s, 3))
    expected = batches(documents, s, 3)
    numpy.testing.assert_array_equal(batch["input_ids"], next(expected))
    numpy.testing.assert_array_equal(batch["labels"], batch["input_ids"])
    assert LanguageModeling(documents).evaluate(Recorder(), s) == {}
    assert LanguageModeling(documents, documents[:1]).evaluate(Recorder(), s) == {"validation_loss": 1.0}


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ({"a": "text"}, "documents is of type dict, expected a list of documents. tokenize"),
        ("text", "documents is of type str"),
        (["text"], r"documents\[0\] is 'text', expected ids of at least one token. tokenize"),
        ([[5], []], r"documents\[1\] is \[\], expected ids"),
        ([[0.5]], r"documents\[0\] is \[0.5\]"),
        ([[[5, 6]]], r"documents\[0\] is \[\[5, 6\]\]"),
    ],
)
def test_documents_that_are_no_ids_are_named(documents, message):
    with pytest.raises(InputError, match=message):
        LanguageModeling(documents)
    with pytest.raises(InputError, match=message.replace("documents", "held_out", 1)):
        LanguageModeling([[5, 6]], documents)


def test_ids_may_stand_in_lists():
    s = TrainingSettings(batch_size=1, context_length=4)
    listed, arrays = LanguageModeling([[5, 6, 7, 8]]), LanguageModeling([numpy.array([5, 6, 7, 8])])
    numpy.testing.assert_array_equal(next(listed.batches(s))["input_ids"], next(arrays.batches(s))["input_ids"])
    assert listed.digest() == arrays.digest()
