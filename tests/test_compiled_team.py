"""Threads that compute steps together: each part once, and no step before the one ahead of it is done."""

from __future__ import annotations

import threading

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import compiled as compiling
from minibloom.compiled import compiled
from minibloom.compiled_team import DONE, TAKEN, array_at, count, counts_of, give_way, parts_of_step, raised
from minibloom.layers import compiled_blocks, compiled_rows, compiled_steps

from .strategies import some


def shares(parts, me, counts, found):
    """Thread number `me [1]` adds 100^me for each part that it takes; and 1 where a part of the step before is missing.

    The last row of `counts` is where threads meet first: else the one that is there computes all.
    """
    last = counts.shape[0] - 1
    raised(counts, last, TAKEN)
    while count(counts, last, TAKEN) < me[1]:
        give_way()
    for step in range(last):
        for part in parts_of_step(counts, step, parts[step]):
            for _ in range(4):  # that takes some time, which others could use to go on to the next step
                give_way()
            early = 0
            for other in range(parts[step - 1] if step > 0 else 0):
                early |= found[step - 1, other] < 100
            found[step, part] += 100 ** me[0] + early


def test_in_python_one_thread_takes_all_parts_in_order():
    counts = counts_of(2)
    assert list(parts_of_step(counts, 1, 3)) == [0, 1, 2]
    assert list(parts_of_step(counts, 1, 3)) == []  # all are done, as for a thread that comes late
    assert count(counts, 1, DONE) == 3 and count(counts, 0, TAKEN) == 0
    assert raised(counts, 0, TAKEN) == 0 and raised(counts, 0, TAKEN) == 1
    give_way()


def test_an_array_is_found_by_its_address():
    x = numpy.arange(6, dtype="float32")
    y = array_at(x, x.ctypes.data, (2, 3))
    y[1, 0] = 7
    assert x.tolist() == [0, 1, 2, 7, 4, 5]


@some
@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 4))
def test_each_part_is_taken_once_and_no_step_begins_before_the_last_is_done(parts, threads):
    pytest.importorskip("numba", reason="Numba is optional")
    loop = compiled(shares, (("i8", 1, "C"), ("i8", 1, "C")), (("i8", 2, "C"), ("i8", 2, "C")))
    counts, found = counts_of(len(parts) + 1), numpy.zeros((len(parts), 40), "int64")
    helpers = [
        threading.Thread(target=loop, args=(numpy.array(parts), numpy.array([me, threads]), counts, found), daemon=True)
        for me in range(1, threads + 1)
    ]
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.join(60)
        assert not helper.is_alive()
    for row, length in zip(found, parts, strict=True):
        assert set(row[:length].tolist()) <= {100**me for me in range(1, threads + 1)}
        assert not row[length:].any()
    assert counts[:-1, DONE].tolist() == parts


def test_arrays_are_found_by_their_addresses_in_machine_code():
    pytest.importorskip("numba", reason="Numba is optional")

    def double(address, y):
        x = array_at(y, address[0], (2, y.shape[0]))
        for i in range(y.shape[0]):
            y[i] = 2 * x[1, i]

    loop = compiled(double, (("i8", 1, "C"),), (("f4", 1, "C"),))
    x, y = numpy.arange(6, dtype="float32"), numpy.empty(3, "float32")
    loop(numpy.array([x.ctypes.data]), y)
    assert y.tolist() == [6, 8, 10]


def test_a_numba_that_knows_other_words_is_as_none(monkeypatch):
    pytest.importorskip("numba", reason="Numba is optional")

    def unknown(x, y):
        y[0] = no_such_function(x[0])  # noqa: F821

    arrays = (("f4", 1, "C"),)
    assert compiled(unknown, arrays, arrays) is None

    loop = compiled(shares, (("i8", 1, "C"), ("i8", 1, "C")), (("i8", 2, "C"), ("i8", 2, "C")))
    assert loop is not None

    def fail(numba):
        raise AttributeError("atomic_rmw")

    monkeypatch.setattr(compiling.compiled_team, "team_as_machine_code", fail)
    assert compiled(shares, (("i8", 1, "C"), ("i8", 1, "C")), (("i8", 2, "C"), ("i8", 2, "C"))) is None


def test_every_loop_of_the_package_is_compiled():
    """An error in one would be no error for users, but only slow."""
    pytest.importorskip("numba", reason="Numba is optional")
    assert None not in [code for dtype in compiled_rows.KINDS for code in compiled_blocks.machine_code(dtype)]
    assert None not in compiled_steps.machine_code().values()
    assert None not in [compiled_rows.ready(dtype) for dtype in compiled_rows.KINDS]
