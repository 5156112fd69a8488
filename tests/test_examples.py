"""Labelled examples: read as they stand, held out by chance, and each thing that is wrong said with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minibloom import BloomConfig
from minibloom.errors import InputError
from minibloom.examples import Examples, answers_of, class_of, names_for, read_examples, split

from .runs import write

values = st.one_of(st.text(), st.integers(), st.booleans(), st.lists(st.text(), max_size=3))


@example(objects=[{"a": "one\u2028line\x85of\x0cJSON"}], escape=False)
@given(objects=st.lists(st.dictionaries(st.text(), values, max_size=3), min_size=1, max_size=5), escape=st.booleans())
def test_json_lines_are_read_as_they_stand(tmp_path_factory, objects, escape):
    """Whatever they hold: characters that end a line in other places, too."""
    lines = "\n\n".join(json.dumps(one, ensure_ascii=escape) for one in objects)
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    path.write_bytes(lines.encode("utf-8", "surrogatepass"))
    read = read_examples(path)
    assert list(read.values()) == objects
    assert list(read) == [f"{path}, line {1 + 2 * i}" for i in range(len(objects))]  # empty lines count


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["good", "bad"], ["good", "bad"]),
        (["1", "0"], ["1", "0"]),
        (["-1", "0"], ["-1", "0"]),  # classes too, as bad and neither are
        (["1", "-0.5"], [1.0, -0.5]),
        (["1", "bad"], ["1", "bad"]),  # not all are numbers
    ],
)
def test_csv_has_fields_in_its_first_row_and_numbers_only_where_some_are_decimal(tmp_path, labels, expected):
    rows = f'label,text\r\n{labels[0]},"two\nlines, ""one"" text"\r\n{labels[1]},猫\r\n'
    path = write(tmp_path, {"data.csv": b"\xef\xbb\xbf" + rows.encode()}) / "data.csv"
    read = read_examples(path)
    assert read == {
        f"{path}, line 3": {"text": 'two\nlines, "one" text', "label": expected[0]},
        f"{path}, line 4": {"text": "猫", "label": expected[1]},
    }
    assert [type(example["label"]) for example in read.values()] == [type(label) for label in expected]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "a.jsonl, line 2 is no JSON: Expecting value"),
        ("a.jsonl", b"[" * 10**5, "a.jsonl, line 1 is no JSON"),
        ("a.jsonl", b" \n\n", "a.jsonl holds no examples"),
        ("a.jsonl", b"ab\xff", r"a.jsonl is not UTF-8 text \(byte 2\)"),
        ("a.jsonl/b", b"", "a.jsonl is a folder"),
        ("b.jsonl", b"", "a.jsonl cannot be read: No such file"),
        ("a.csv", b"text,label\n", "a.csv holds no examples"),
        ("a.csv", b'text,label\n"x,1\n', "a.csv is no CSV from line 2 on: unexpected end"),
        ("a.csv", b"text,label\nhi,1\nhi, you,1\n", "a.csv, line 3 has more than the 2 fields of line 1"),
    ],
)
def test_a_file_that_holds_no_examples_is_named(tmp_path, name, content, message):
    write(tmp_path, {name: content})
    with pytest.raises(InputError, match=message):
        read_examples(tmp_path / ("a.csv" if ".csv" in name else "a.jsonl"))


@given(count=st.integers(2, 40), share=st.floats(0.05, 0.95), seed=st.integers(0, 5))
def test_a_share_is_held_out_by_the_seed(count, share, seed):
    examples = Examples({f"examples[{i}]": i for i in range(count)})
    if not 0 < round(share * count) < count:
        with pytest.raises(InputError, match=f"validation is {share}, expected a share of the {count} examples"):
            split(examples, share, seed)
        return
    train, held_out = split(examples, share, seed)
    assert len(held_out) == round(share * count)
    assert {**train, **held_out} == examples and not train.keys() & held_out.keys()
    assert list(train) == sorted(train, key=examples.get)
    assert (train, held_out) == split(examples, share, seed)


def test_another_seed_holds_out_others():
    examples = Examples({f"examples[{i}]": i for i in range(100)})
    assert split(examples, 0.1, 0) != split(examples, 0.1, 1)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(InputError, match="expected a share"):
        split(Examples({"a": 1, "b": 2, "c": 3}), share, 0)


# --- Labels ---


def named(*labels: Any, **config: Any) -> dict[int, str]:
    return names_for([(f"examples[{i}]", label) for i, label in enumerate(labels)], BloomConfig(**config))


def test_names_are_in_the_order_of_the_alphabet_and_numbers_keep_their_meaning():
    assert named("fr", "en", "fr", "zh") == {0: "en", 1: "fr", 2: "zh"}
    assert named(0, 3, 1) == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2", 3: "LABEL_3"}
    assert named(True, False) == {0: "LABEL_0", 1: "LABEL_1"}


def test_names_that_the_model_has_stay_as_they_are():
    known = {0: "zh", 1: "en", 2: "fr"}
    assert named("fr", "en", id2label=known) == known
    assert named(0, 1, id2label=known) == known
    assert named("fr", "es", id2label=known) == {0: "es", 1: "fr"}  # another set
    assert named(3, 1, id2label=known) == {i: f"LABEL_{i}" for i in range(4)}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", 1], r"examples\[1\]: the label is 1, while those before are names"),
        ([1, "a"], r"examples\[1\]: the label is 'a', while those before are numbers"),
        ([-1], r"examples\[0\]: the label is -1, expected the name of a class, or its number"),
        ([None], r"examples\[0\]: the label is None"),
        (["a", ""], r"examples\[1\]: the label is '', expected the name of a class"),  # as CSV has one left out
        (["a", ["a"]], r"examples\[1\]: the label is \['a'\]"),
        (["a", "a"], "every label is 'a': there is nothing to tell apart"),
        ([0, 2**40], r"examples\[1\]: the label is 1099511627776, expected .* from 0 to 1048575"),
    ],
)
def test_labels_that_are_none_are_named(labels, message):
    with pytest.raises(InputError, match=message):
        named(*labels)


def test_an_unknown_label_is_named_with_the_nearest():
    config = BloomConfig(id2label={0: "good", 1: "bad"})
    assert [class_of("here", label, config) for label in ("bad", 0, True)] == [1, 0, 1]
    for label in ("goood", 2, -1, None, 0.0):
        with pytest.raises(InputError, match=f"here: the label {label!r} is unknown. Known are good, bad") as error:
            class_of("here", label, config)
    assert "Did you mean" not in str(error.value)
    with pytest.raises(InputError, match="Did you mean 'good'"):
        class_of("here", "goood", config)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            {"text": ["Oslo"], "answer_start": [13]},
            "the answer 'Oslo' is not at 13 in the context, where 'Lima' stands",
        ),
        ({"text": ["Ana"], "answer_start": [-18]}, "an answer is 'Ana' at -18"),
        ({"text": [""], "answer_start": [0]}, "an answer is '' at 0, expected a text, not empty"),
        ({"text": ["Ana"], "answer_start": ["0"]}, "an answer is 'Ana' at '0'"),
        ({"text": ["Ana"], "answer_start": []}, "lists of one length"),
        ({"text": "Ana", "answer_start": 0}, "lists of one length"),
        ({"text": ["Ana"]}, "lists of one length"),
        (["Ana"], r"answers is \['Ana'\], expected"),
    ],
)
def test_answers_that_do_not_stand_where_they_are_said_to(answers, message):
    with pytest.raises(InputError, match=message):
        answers_of("here", {"context": "Ana lives in Lima.", "answers": answers})


def test_every_answer_is_found():
    answers = {"text": ["Lima", "in Lima"], "answer_start": [13, 10]}
    assert answers_of("here", {"context": "Ana lives in Lima.", "answers": answers}) == [("Lima", 13), ("in Lima", 10)]
    assert answers_of("here", {"context": "Ana", "answers": {"text": [], "answer_start": []}}) == []


def test_a_missing_field_is_named_with_the_nearest():
    with pytest.raises(
        InputError, match=r"here has no field 'answers'. Its fields are 'context', 'answer'. Did you mean"
    ):
        answers_of("here", {"context": "Ana", "answer": 3})
    with pytest.raises(InputError, match=r"here is \[1, 2\], expected an object with a field 'answers'"):
        answers_of("here", [1, 2])


def test_a_tilde_in_a_files_path_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(tmp_path, {"data.jsonl": b'{"a": 1}'})
    assert read_examples("~/data.jsonl") == {f"{tmp_path / 'data.jsonl'}, line 1": {"a": 1}}
