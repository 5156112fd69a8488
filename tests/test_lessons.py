"""Lessons: each runs from top to bottom, shows what it showed when committed, and its exercises can be solved."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import nbformat
import pytest

from .run_lessons import LESSONS, paths, run

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)
CHECK_EXERCISES = """
import exercises, solutions.lesson_{0}, exercises.lesson_{0}
exercises.assert_all(exercises.lesson_{0}.check, globals(), solutions.lesson_{0})
"""
lessons = pytest.mark.parametrize("path", paths(), ids=lambda path: path.stem)


def code_cells(book: Any) -> list[Any]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def texts(cell: Any) -> Iterator[str]:
    """What a cell shows, as text: of a picture, what is written in it."""
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/svg+xml" in data:
            yield " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", data["image/svg+xml"]))
        elif "text/html" in data:
            yield data["text/html"]
        else:
            yield output.get("text", "") or data.get("text/plain", "")


def assert_same_text(now: str, kept: str) -> None:
    """The same words; and numbers that differ by no more than other machines' rounding may make them."""
    assert NUMBER.sub("#", now).split() == NUMBER.sub("#", kept).split()
    for ours, theirs in zip(NUMBER.findall(now), NUMBER.findall(kept), strict=True):
        digits, _, power = theirs.lower().partition("e")
        last = (
            10.0 ** (int(power or 0) - len(digits.partition(".")[2])) if "." in theirs or power else 0
        )  # one of the last
        assert float(ours) == pytest.approx(float(theirs), rel=5e-3, abs=1.01 * last + 1e-6)


def test_numbers_may_differ_in_their_last_digit():
    assert_same_text("loss  0.013, 5 of 6; 1.2e-07", "loss 0.014, 5 of 6; 1.3e-07")
    for now, kept in (("0.013", "0.015"), ("5 of 6", "4 of 6"), ("a 1", "b 1"), ("1.2", "1.2 3")):
        with pytest.raises(AssertionError):
            assert_same_text(now, kept)


@lessons
def test_a_lesson_runs_and_shows_what_was_committed(path):
    kept, now = nbformat.read(path, as_version=4), run(path, CHECK_EXERCISES.format(path.name[:2]))
    for cell, before in zip(code_cells(now), code_cells(kept), strict=True):
        kinds = [output.output_type for output in cell.outputs]
        assert not any(output.get("name") == "stderr" for output in cell.outputs), "".join(texts(cell))
        assert kinds == [output.output_type for output in before.outputs], f"other outputs of: {cell.source}"
        if "varies" not in cell.metadata.get("tags", []):  # times, and what rounds otherwise on another machine
            for ours, theirs in zip(texts(cell), texts(before), strict=True):
                assert_same_text(ours, theirs)


@lessons
def test_a_lesson_is_as_it_was_run_and_keeps_its_measure(path):
    book = nbformat.read(path, as_version=4)
    cells = code_cells(book)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run it from top to bottom"
    assert path.stat().st_size < 2**20
    lines = [line for cell in cells for line in cell.source.splitlines() if line.strip()]
    assert len(lines) <= 450
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert "what you can now explain" in book.cells[-1].source.lower()


@lessons
def test_each_exercise_is_a_stub_with_a_hint_and_a_check_in_the_lesson(path):
    book = nbformat.read(path, as_version=4)
    number = path.name[:2]
    checks = ast.parse((LESSONS / "exercises" / f"lesson_{number}.py").read_text(encoding="utf-8"))
    names = [node.name for node in checks.body if isinstance(node, ast.FunctionDef) and node.decorator_list]
    assert len(names) >= 3
    code = "\n".join(cell.source for cell in code_cells(book))
    prose = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    for name in names:
        assert re.search(rf"^def {name}\(", code, re.MULTILINE)
        assert re.search(rf"^check\({name}\)", code, re.MULTILINE)
    assert prose.count("<summary>Hint</summary>") >= len(names)


@lessons
def test_a_lesson_is_held_to_the_reference_by_an_assert(path):
    code = "\n".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))
    assert re.search(r"^\s*(assert |same\()", code, re.MULTILINE)
    assert "goldens()" in code


def test_a_check_tells_where_an_answer_is_wrong(monkeypatch):
    monkeypatch.syspath_prepend(LESSONS)
    import exercises
    from exercises.lesson_00 import check

    for given, expected, said in [
        ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.5, 4.0]], "x is off by 0.5 at [1, 0]: 3, expected 3.5."),
        ([True, True], [True, False], "x is off by 1 at [1]: 1, expected 0."),
        (1.0, 2.0, "x is off by 1: 1, expected 2."),
    ]:
        with pytest.raises(AssertionError, match=re.escape(said)):
            exercises.same(given, expected, "x")

    def greedy(model, ids, count, known, end):
        ids = list(ids)
        while len(ids) < count + 3 and (len(ids) == 3 or ids[-1] != end):
            ids.append(int(model([ids]).logits[0, -1].argmax()))  # whether the tokenizer knows it or not
        return ids

    assert "is not known, and was taken" in repr(check(greedy))
