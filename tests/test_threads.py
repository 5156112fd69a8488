"""Work shared out among threads: the same numbers, BLAS left as it was, errors not lost."""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import nullcontext
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from minibloom import BloomConfig, BloomForCausalLM, threads
from minibloom.layers import one_row
from minibloom.layers.mlp import gelu, gelu_backward
from minibloom.losses import IGNORE, cross_entropy
from minibloom.threads import (
    add_to_rows,
    blas_on_all_cores,
    call_together,
    each,
    matmul,
    on_all_cores,
    over_rows,
    over_rows_with_sums,
    shared_out,
)

from .strategies import normal, seeds, some


@pytest.fixture(autouse=True)
def always_share(monkeypatch):
    """Three threads, whatever the machine has, and nothing too small for them."""
    for name in ("SMALL", "SMALL_PRODUCT", "SMALL_WEIGHT"):
        monkeypatch.setattr(threads, name, 0)
    monkeypatch.setattr(threads, "CHUNK", 8)
    with threadpool_limits(3, "blas"):
        yield


@some
@given(st.integers(1, 40), st.integers(1, 9), seeds)
def test_a_row_is_added_to_every_row(R, N, seed):
    x, row = normal(seed, R, N), normal(seed + 1, N)
    y = x.copy()
    with shared_out():
        add_to_rows(y, row)
    numpy.testing.assert_array_equal(y, x + row)


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_blas_is_kept_on_one_thread_and_has_its_threads_back_afterwards():
    before = blas_threads()
    with shared_out():
        assert set(blas_threads()) == {1} and threads.threads() == max(before)
        with shared_out():  # a pass within a pass
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {1}
    assert blas_threads() == before and threads.threads() == 1

    @on_all_cores
    def fails() -> None:
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fails()
    assert blas_threads() == before


def test_blas_has_its_threads_for_a_product_that_only_one_thread_asks_for():
    before = blas_threads()
    with shared_out():
        with blas_on_all_cores():
            assert blas_threads() == before
        assert set(blas_threads()) == {1}
        with pytest.raises(KeyError, match="inside"), blas_on_all_cores():
            raise KeyError("inside")
        assert set(blas_threads()) == {1}

        def task(_: int) -> None:
            with blas_on_all_cores():  # within a share of the work: the others are at theirs
                assert set(blas_threads()) == {1}

        each(task, range(5))
    with blas_on_all_cores():  # outside of a pass there is nothing to give
        assert blas_threads() == before
    assert blas_threads() == before


def test_a_product_that_outlasts_another_thread_s_pass_takes_no_threads_from_blas():
    """A layer that is called by itself while another thread's model computes is in no pass of its own."""
    before, inside, over = blas_threads(), threading.Event(), threading.Event()

    def product() -> None:
        with blas_on_all_cores():
            inside.set()
            over.wait(20)

    thread = threading.Thread(target=product)
    with shared_out():
        thread.start()
        inside.wait(20)
    over.set()
    thread.join()
    assert blas_threads() == before


def test_models_that_decode_at_once_in_two_threads_get_what_each_gets_alone(monkeypatch):
    """Each gives BLAS its threads for every product of one row, and takes them back, while the other does the same."""
    monkeypatch.setattr(one_row, "LEAST", 0)
    monkeypatch.setattr(one_row, "SMALL_WEIGHT", 0)
    before, model = blas_threads(), BloomForCausalLM(BloomConfig(vocab_size=99, hidden_size=64, n_layer=2, n_head=4))

    def decode(start: int) -> numpy.ndarray:
        return model.generate([[start]], max_new_tokens=60, do_sample=False)

    alone, found = [decode(start) for start in range(2)], {}
    together = [threading.Thread(target=lambda n=n: found.update({n: decode(n)}), daemon=True) for n in range(2)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join(60)
    assert len(found) == 2, "they wait for each other"
    for n, expected in enumerate(alone):
        numpy.testing.assert_array_equal(found[n], expected)
    assert blas_threads() == before


def test_an_interrupt_before_a_pass_has_begun_leaves_nothing_behind(monkeypatch):
    def interrupted() -> None:
        raise KeyboardInterrupt

    before = blas_threads()
    monkeypatch.setattr(threads._threads, "blas", None)
    with monkeypatch.context() as patched:
        patched.setattr("threadpoolctl.ThreadpoolController", interrupted)
        with pytest.raises(KeyboardInterrupt), shared_out():
            pass
    with shared_out():
        assert threads.threads() == max(before)
    assert blas_threads() == before


def test_passes_of_several_threads_may_overlap():
    """The thread that ends the last one is not the thread that began the first, which is still there."""
    before, inside, over, end = blas_threads(), threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with shared_out():
            inside.set()
            over.wait(20)
        end.wait(20)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(20)
    with shared_out():
        over.set()
        while threads._threads.passes > 1:
            pass
        assert set(blas_threads()) == {1}
    assert blas_threads() == before
    end.set()
    thread.join()


def test_a_model_gives_blas_its_threads_back():
    before = blas_threads()
    model = BloomForCausalLM(BloomConfig(vocab_size=9, hidden_size=8, n_layer=1, n_head=2))
    model.value_and_grad([[1, 2]], labels=[[1, 2]])
    with pytest.raises(ValueError, match="input_ids"):
        model([[99]])
    assert blas_threads() == before


def test_each_item_is_done_once_and_by_several_threads():
    done, names, meet = [], set(), threading.Barrier(2, timeout=20)

    def task(item: int) -> None:
        if item < 2:
            meet.wait()  # nobody can do both of these
        names.add(threading.current_thread().name)
        done.append(item)

    with shared_out():
        each(task, range(50))
    assert sorted(done) == list(range(50)) and len(names) > 1
    done.clear()
    each(lambda item: done.append(item), range(5))  # outside of a pass: in order, by the caller
    assert done == list(range(5))


def test_nobody_waits_for_a_thread_that_comes_late():
    done, free = [], threading.Event()
    threads._threads.call(lambda: print(free.wait(20)), 2)  # keeps every helper
    try:
        with shared_out():
            each(done.append, range(5))
        assert done == list(range(5)) and not free.is_set()
    finally:
        free.set()


def test_an_error_in_a_thread_is_raised_and_work_within_work_is_not_shared_out_again():
    def task(item: int) -> None:
        assert threads.threads() == 1
        if item == 7:
            raise ZeroDivisionError

    with shared_out():
        with pytest.raises(ZeroDivisionError):
            each(task, range(9))
        each(lambda item: each(task, range(3)), range(9))  # would wait for ever if it were


@some
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), seeds)
def test_matrix_products(M, K, N, seed):
    a, b = normal(seed, M, K), normal(seed + 1, N, K)
    with shared_out():
        numpy.testing.assert_allclose(matmul(a, b.T), a @ b.T, atol=1e-12)
        numpy.testing.assert_allclose(matmul(b, a.T), b @ a.T, atol=1e-12)
    stack, other = normal(seed, 2, 3, M, K), normal(seed, 2, 3, K, N)
    with shared_out():
        numpy.testing.assert_allclose(matmul(stack, other), stack @ other, atol=1e-12)


@some
@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 20), seeds)
def test_functions_of_rows_give_the_same_bits(B, S, N, seed):
    x, dy = normal(seed, B, S, N), normal(seed + 1, B, S, N)
    with shared_out():
        numpy.testing.assert_array_equal(over_rows(gelu, x), gelu(x))
        numpy.testing.assert_array_equal(over_rows(gelu_backward, dy, x), gelu_backward(dy, x))


@some
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), seeds)
def test_sums_over_rows_have_the_same_bits_by_any_number_of_threads(B, S, N, seed):
    x, found = normal(seed, B, S, N), []
    function = lambda x: (2 * x, x.sum(0), (x * x).sum(0))  # noqa: E731
    for count in (1, 2, 3):
        with pytest.MonkeyPatch.context() as patch, threadpool_limits(count, "blas"), shared_out():
            patch.setattr(threads, "SMALL", 64)
            patch.setattr(threads, "CHUNK", 128)
            found.append(over_rows_with_sums(function, x))
    rows, *sums = found[0]
    numpy.testing.assert_array_equal(rows, 2 * x)
    numpy.testing.assert_allclose(sums, [x.sum((0, 1)), (x * x).sum((0, 1))], rtol=0, atol=1e-12)
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            numpy.testing.assert_array_equal(one, same)


@some
@given(st.integers(0, 50), st.integers(1, 20))
def test_rows_go_in_chunks_that_fit_and_of_which_every_thread_has_as_many(R, N):
    x = numpy.zeros((R, N))
    with shared_out():
        slices = threads.chunks(x)
    assert [row for part in slices for row in range(R)[part]] == list(range(R))
    heights = [len(range(R)[part]) for part in slices]
    assert all(height * N <= max(8, N) for height in heights)
    if R:
        rounds = -(-R // (max(1, 8 // N) * 3))  # of a chunk for each of three threads
        assert max(heights) == -(-R // (rounds * 3))


@some
@given(st.integers(1, 9), st.integers(2, 9), seeds)
def test_the_loss_is_the_same_in_chunks(R, V, seed):
    logits, labels = normal(seed, R, V), numpy.arange(R) % V
    labels[::3] = IGNORE
    alone = cross_entropy(logits, labels)
    with shared_out():
        for got, expected in zip(cross_entropy(logits, labels), alone, strict=True):
            numpy.testing.assert_array_equal(got, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
def test_a_process_that_forks_goes_on():
    """The threads of its parent are not there: waiting for them would be for ever."""
    with shared_out():
        each(lambda _: None, range(9))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            seen: list[Any] = []
            with shared_out():
                each(seen.append, range(9))
            status = 0 if sorted(seen) == list(range(9)) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_thread_that_comes_late_keeps_no_array(monkeypatch):
    """What is to be called waits in a queue until a helper wakes, and may hold all gradients by then."""
    late = []
    monkeypatch.setattr(threads._threads, "call", lambda function, times: late.extend([function] * times))
    x = numpy.ones(3)
    seen = weakref.ref(x)
    with threadpool_limits(2, "blas"), shared_out():
        each(lambda i, x=x: x, range(4))
    del x
    assert late and seen() is None
    late[0]()  # and has nothing to do


# --- a task that several threads share ---


def test_a_shared_task_is_called_once_by_each_thread():
    called, meet = [], threading.Barrier(3, timeout=20)

    def task(me: int) -> None:
        called.append((me, threading.get_ident()))
        meet.wait()  # all are there at once

    call_together(task, 3)
    assert sorted(me for me, _ in called) == [0, 1, 2] and len({thread for _, thread in called}) == 3
    assert dict(called)[0] == threading.get_ident()
    called.clear()
    call_together(lambda me: called.append(me), 1)
    assert called == [0]


def test_who_shares_a_task_waits_neither_for_a_thread_that_is_late_nor_for_one_that_is_slow():
    free, began, ended = threading.Event(), threading.Event(), threading.Event()

    def task(me: int) -> None:
        if me:
            began.set()
            free.wait(20)
            ended.set()
        else:
            began.wait(20)

    call_together(task, 2)
    assert began.is_set() and not ended.is_set()
    free.set()
    assert ended.wait(20)
    free.clear()
    threads._threads.call(lambda: print(free.wait(20)), len(threads._threads.helpers))  # keeps every one
    called: list[int] = []
    call_together(called.append, 3)
    free.set()
    assert called == [0]


@pytest.mark.parametrize("who", [0, 1])
def test_a_task_that_fails_is_an_error_here_and_none_elsewhere(who):
    meet, called = threading.Barrier(2, timeout=20), []

    def task(me: int) -> None:
        meet.wait()
        if me == who:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) if who == 0 else nullcontext():
        call_together(task, 2)
    again = threading.Barrier(3, timeout=20)  # which needs every helper
    call_together(lambda me: (again.wait(), called.append(me)), 3)
    assert 0 in called


@pytest.mark.parametrize("when", ["in its own share", "while others are called"])
def test_when_a_failure_is_heard_of_nobody_works_on_a_shared_task_any_more(when, monkeypatch):
    """As after Ctrl-C: the caller may go on with the same memory."""
    began, done = threading.Event(), []

    def task(me: int) -> None:
        if me == 0:
            began.wait(20)
            raise KeyboardInterrupt
        began.set()
        time.sleep(0.2)
        done.append(me)

    call = threads._threads.call

    def interrupted(function, times):
        call(function, times)
        began.wait(20)
        raise KeyboardInterrupt

    if when == "while others are called":
        monkeypatch.setattr(threads._threads, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call_together(task, 2)
    before = list(done)
    time.sleep(0.3)
    assert done == before == [1]
    monkeypatch.undo()
    threads._threads.call(lambda: print(began.wait(20)), 1)
    began.clear()
    late = []
    monkeypatch.setattr(threads._threads, "call", lambda function, times: late.append(function))
    with pytest.raises(KeyboardInterrupt):
        call_together(lambda me: done.append(me) if me else interrupt(), 2)  # a thread that had not begun never does
    late[0]()
    assert done == [1]


def interrupt():
    raise KeyboardInterrupt


def test_where_there_can_be_no_more_threads_the_caller_does_it_all(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_threads", threads._Threads())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []
    call_together(done.append, 3)
    with shared_out():
        each(done.append, range(3))
    assert sorted(done) == [0, 0, 1, 2] and threads._threads.calls.empty()


def test_a_thread_that_comes_late_keeps_nothing_of_a_shared_task(monkeypatch):
    late = []
    monkeypatch.setattr(threads._threads, "call", lambda function, times: late.extend([function] * times))
    x = numpy.ones(3)
    seen = weakref.ref(x)
    call_together(lambda me, x=x: x, 3)
    del x
    assert len(late) == 2 and seen() is None
    late[0]()  # and has nothing to do


# --- on which core ---


few_cores = pytest.mark.skipif(
    threads.core_of_this_thread is None or not 1 < len(os.sched_getaffinity(0)) <= threads.FEW_CORES,
    reason="only where threads choose among a few cores",
)


class Helper:
    """A thread as `keep_off` sees it."""

    def __init__(self, native_id):
        self.native_id = native_id


@few_cores
def test_threads_stay_off_the_core_of_who_calls_them():
    allowed, cores, meet = os.sched_getaffinity(0), [], threading.Barrier(2, timeout=20)

    def task(me: int) -> None:
        meet.wait()
        if me:
            cores.append(os.sched_getaffinity(0))
        meet.wait()

    for _ in range(5):
        cores.clear()
        call_together(task, 2)
        assert cores == [allowed - {threads._threads.avoided}]
        assert os.sched_getaffinity(0) == allowed  # the caller's own choice is left alone


def test_threads_are_moved_where_there_are_a_few_cores(monkeypatch):
    chosen = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cores: chosen.append((thread, cores)), raising=False)
    for allowed, moved in (({3}, None), ({3, 5, 6}, {5, 6}), (set(range(16)), None)):
        chosen.clear()
        monkeypatch.setattr(os, "sched_getaffinity", lambda thread, allowed=allowed: allowed, raising=False)
        decided = threads.keep_off(3, [Helper(11), Helper(None), Helper(12)])
        assert chosen == ([] if moved is None else [(11, moved), (12, moved)])
        assert decided == (len(allowed) > 1)


def test_a_thread_that_is_no_more_keeps_no_other_from_being_moved(monkeypatch):
    chosen = []

    def choose(thread, cores):
        if thread == 11:
            raise ProcessLookupError
        chosen.append(thread)

    monkeypatch.setattr(os, "sched_setaffinity", choose, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {0, 1}, raising=False)
    threads.keep_off(0, [Helper(11), Helper(12)])
    assert chosen == [12]


def test_where_the_system_does_not_say_on_which_core_a_thread_is_all_goes_on(monkeypatch):
    monkeypatch.setattr(threads, "core_of_this_thread", None)
    done: list[int] = []
    with shared_out():
        each(done.append, range(9))
    assert sorted(done) == list(range(9))
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)  # as on macOS and Windows
    assert threads._core_of_this_thread() is None
