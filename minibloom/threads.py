"""All cores for what NumPy computes, without a fight over them.

NumPy's matrix products run on every core, by a BLAS library with threads of its own; all else (exp, sums, products of
two arrays) runs on one. A pass needs both. So while a model computes, BLAS is kept on the thread that calls it, and
the work is shared out here: matrix products by rows or columns, functions of single rows by rows, attention by heads.
When the call is over, BLAS has its threads back: a program that imports minibloom sees no difference.
(A product of one large row is the exception: `layers/one_row.py` lends BLAS its threads for it, and says why.)

What is computed stays the same: no number's sum is cut in two, only the numbers are shared out.

Why BLAS does not keep its threads: at the end of each product they wait for each other, awake, on the cores that our
threads need. Measured on 2 cores of an AMD EPYC (Zen 3) with other work on the machine: attention of bloom-560m's shape
at 512 tokens takes 0.4 to 0.6 s a block with BLAS's threads, 0.03 to 0.06 s with ours.

What a training step of 5 million parameters (8 rows of 256 tokens) consists of, on 2 such cores at 2.4 GHz: of 1.23 s,
0.60 are products, as fast as BLAS multiplies them with threads of its own (0.57 to 0.61); 0.25 attention; 0.12 GELU,
0.09 LayerNorm, forward and backward; 0.15 what one thread does alone, between the shares. (Before
`layers/subnormals.py`; with what came with it, 0.84 s became 0.75 on 2 cores of an Intel Xeon, of which 0.38 are
products; and see `buffers.py`.)

Tried and left: the standard library's ThreadPoolExecutor, whose calls cost 45 us more; GELU computed again in backward
in place of kept, 2 to 7% slower and at the peak no memory less; products of a pass by BLAS's own threads, alike for
many rows (but see `layers/one_row.py`); larger chunks of rows, see `CHUNK`.

Who wakes a thread is about to sleep, thinks Linux, and where cores are few it puts that thread on the same core: two
then take turns there, for as long as a text takes, while the other core rests. So our threads stay off the core that
calls them. After a pause, 32 tokens of 5 million parameters took 0.65 ms each on 2 cores of an AMD EPYC (Zen 5), and
0.46 so; and 0.44 since the one who calls does not wait for the others to return (`call_together`). Beside a program
that keeps one core busy, left where Linux puts them and kept off: a token 0.57 and 0.52 ms, a prompt of 8 x 256 tokens
149 and 126, a training step on it 457 and 413.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy

from .backend import Array, namespace
from .buffers import empty
from .memory import run_in

F = TypeVar("F", bound=Callable[..., Any])

CHUNK = 2**17  # numbers that a function of rows is given at once: few enough for the cache, and with fewer, threads
# meet at Python's lock (GELU of 2,048 rows, 2**13 to 2**20 numbers at once: 12, 7.3, 5.7, 5.1, 5.2, 4.8, 4.8, 6.8 ms)
SMALL = 2**17  # numbers; with fewer, another thread costs more than it gives
SMALL_PRODUCT = 2**22  # multiplications in a matrix product; with fewer, one thread computes it
FEW_CORES = 4  # up to which Linux may look for no other core than that of the thread that wakes another
SMALL_WEIGHT = 2**20  # numbers in a weight; a larger one is read by all threads, however few rows it multiplies


class _Threads:
    """The threads there are, and whether a pass has them now."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        self.passes, self.count = 0, 1  # passes under way; threads that they may use
        self.blas: list[Any] | None = None  # threadpoolctl's view of the BLAS libraries
        self.limited: list[tuple[Any, int]] = []  # those that are kept on one thread, and how many they had
        self.helpers: list[threading.Thread] = []  # which wait for what they are to call
        self.avoided = -1  # the core that they stay off, as who calls them is on it
        self.calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.local = threading.local()  # .busy: this thread computes its share of something

    def call(self, function: Callable[[], None], times: int) -> None:
        """Have `function` called by so many helpers. Not by a ThreadPoolExecutor, whose calls cost 45 us more."""
        with self.lock:
            while len(self.helpers) < times:
                helper = threading.Thread(target=self._help, name=f"minibloom_{len(self.helpers) + 1}", daemon=True)
                try:
                    helper.start()
                except RuntimeError:  # the process may have no more: who calls does all that nobody else does
                    break
                self.helpers.append(helper)
                self.avoided = -1
            if core_of_this_thread is not None and (core := core_of_this_thread()) != self.avoided:
                self.avoided = core if keep_off(core, self.helpers) else -1
            times = min(times, len(self.helpers))
        for _ in range(times):
            self.calls.put(function)

    def _help(self) -> None:
        calls = self.calls
        while True:
            calls.get()()


def _core_of_this_thread() -> Callable[[], int] | None:
    """What tells the core that a thread is on; None where the system does not say, or does not let one choose."""
    with suppress(Exception):
        if hasattr(os, "sched_setaffinity"):
            return ctypes.CDLL(None).sched_getcpu
    return None


core_of_this_thread = _core_of_this_thread()


def keep_off(core: int, helpers: Iterable[threading.Thread]) -> bool:
    """Have these threads run on any core that this one may run on, but not on `core`; False where there is no other.

    Where there are more cores than `FEW_CORES`, Linux finds one that rests, and they are left alone.
    """
    allowed = os.sched_getaffinity(0)
    if len(allowed) == 1:
        return False
    for helper in helpers if len(allowed) <= FEW_CORES else ():
        with suppress(OSError):  # it is no more, or cores were taken from us meanwhile
            if helper.native_id:
                os.sched_setaffinity(helper.native_id, allowed - {core})
    return True


_threads = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.__init__)  # type: ignore[misc]  # threads do not survive a fork


@contextmanager
def shared_out() -> Iterator[None]:
    """Within this block, work is shared out among our threads, and BLAS stays on the one that calls it."""
    t = _threads
    with t.lock:
        if t.passes == 0:
            if t.blas is None:
                from threadpoolctl import ThreadpoolController

                t.blas = ThreadpoolController().select(user_api="blas").lib_controllers
            t.limited = [(library, count) for library in t.blas if (count := library.num_threads) > 1]
            t.count = max((count for _, count in t.limited), default=1)  # as many as BLAS was allowed
            for library, _ in t.limited:
                _allow(library, 1)
        t.passes += 1  # not before all of that went well
    try:
        yield
    finally:
        with t.lock:
            t.passes -= 1
            if t.passes == 0:
                for library, count in t.limited:
                    _allow(library, count)


def _allow(library: Any, count: int) -> None:
    """Let a BLAS library use `count` threads. (By itself, and not by `limit()`, which costs 25 us more.)"""
    # From 3.8 on, threadpoolctl does nothing when asked by a thread while another that asked before is alive; but
    # where passes overlap, one thread may begin the first and another end the last.
    if hasattr(library, "clear_controlling_thread"):
        library.clear_controlling_thread(force=True)
    library.set_num_threads(count)


@contextmanager
def blas_on_all_cores() -> Iterator[None]:
    """Within this block of a pass, BLAS has its threads: for a single product, while nothing else is shared out."""
    t = _threads
    if threads() == 1:
        yield
        return
    with t.lock:
        for library, count in t.limited:
            _allow(library, count)
    try:
        yield
    finally:
        with t.lock:
            if t.passes:  # the one seen above may have been another thread's, and over by now
                for library, _ in t.limited:
                    _allow(library, 1)


def on_all_cores(function: F) -> F:
    """`function`, with its work shared out; but not a method of what computes on a device."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if args and getattr(args[0], "xp", numpy) is not numpy:
            return run_in(function, *args, **kwargs)
        with shared_out():
            return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def threads() -> int:
    """How many threads may work now: 1 outside of a pass, and within a share of one."""
    return _threads.count if _threads.passes and not getattr(_threads.local, "busy", False) else 1


def each(task: Callable[[Any], Any], items: Iterable[Any]) -> None:
    """`task(item)` for every item, in any order, by all threads. An exception in one of them is raised here."""
    t, items = _threads, list(items)
    count = min(threads(), len(items))
    if count < 2:
        for item in items:
            task(item)
        return
    queue = iter(items)

    def work() -> None:
        t.local.busy = True
        try:
            for item in queue:  # one iterator for all: whoever is free takes the next
                task(item)
        finally:
            t.local.busy = False

    tickets = deque([work] * (count - 1))  # one for each helper; one that wakes late finds none, and nothing is kept
    ends: SimpleQueue[BaseException | None] = SimpleQueue()  # how its work ended

    def help() -> None:
        try:
            share = tickets.pop()
        except IndexError:
            return  # all was done before this thread woke
        error = None
        try:
            share()
        except BaseException as caught:
            error = caught
        del share  # and the arrays with it, before anybody goes on
        ends.put(error)

    t.call(help, count - 1)
    try:
        work()
    finally:
        late = 0
        for _ in range(count - 1):
            with suppress(IndexError):
                tickets.pop()
                late += 1
        errors = [ends.get() for _ in range(count - 1 - late)]
    for error in filter(None, errors):
        raise error


def call_together(task: Callable[[int], Any], count: int) -> None:
    """`task(0)` here, and meanwhile `task(1)`, ... by other threads, `count` in all: a task that they share.

    It is over when `task(0)` is: by then all must be done, and who comes later find nothing to do. So nobody waits for
    others to wake, nor to return; only where `task(0)` fails, for those that have begun. What fails in another thread
    must leave its share to the rest.
    """
    shares = deque(functools.partial(task, me) for me in range(1, count))  # who wakes late finds none, and keeps none
    ends: SimpleQueue[None] = SimpleQueue()

    def help() -> None:
        try:
            share = shares.popleft()
        except IndexError:
            return
        try:
            share()
        except Exception:  # what it was to do, the others have done
            return
        finally:
            ends.put(None)

    try:
        if count > 1:
            _threads.call(help, count - 1)
        task(0)
    except BaseException:  # Ctrl-C too: nobody writes any more when the caller hears of it
        late = 0
        with suppress(IndexError):
            while True:
                shares.popleft()
                late += 1
        for _ in range(count - 1 - late):
            ends.get()
        raise
    shares.clear()


def over_rows(function: Callable[..., Array], *arrays: Array) -> Array:
    """`function(*arrays)`, for a function that treats each row, along the last axis, by itself.

    `arrays`: of one shape but for the last axis; the result has the first one's shape. Rows go through in chunks that
    stay in the cache, which pays even on one core: NumPy writes each step of a formula to memory otherwise.
    """
    first = arrays[0]
    if first.size < SMALL or namespace(first) is not numpy or not _threads.passes:
        return function(*arrays)
    rows = [x.reshape(-1, x.shape[-1]) for x in arrays]  # [..., N] -> [R, N]
    out = empty(rows[0].shape, first.dtype)

    def chunk(part: slice) -> None:
        out[part] = function(*(x[part] for x in rows))

    each(chunk, chunks(rows[0]))
    return out.reshape(first.shape)


def over_rows_with_sums(function: Callable[..., tuple[Array, ...]], *arrays: Array) -> tuple[Array, ...]:
    """`over_rows`, for a function of `[R, N]` arrays that returns, behind its rows, sums over them `[N]`.

    These are added chunk by chunk, and chunks are of one size however many threads there are: so are the bits.
    """
    first = arrays[0]
    rows = [x.reshape(-1, x.shape[-1]) for x in arrays]  # [..., N] -> [R, N]
    if first.size < SMALL or namespace(first) is not numpy:
        out, *sums = function(*rows)
        return out.reshape(first.shape), *sums
    out, height = empty(rows[0].shape, first.dtype), max(1, CHUNK // first.shape[-1])
    starts = range(0, len(out), height)
    found: list[Any] = [None] * len(starts)

    def chunk(i: int) -> None:
        part = slice(starts[i], starts[i] + height)
        out[part], *found[i] = function(*(x[part] for x in rows))

    each(chunk, range(len(starts)))
    return out.reshape(first.shape), *(sum(sums[1:], start=sums[0]) for sums in zip(*found, strict=True))


def add_to_rows(x: Array, row: Array) -> None:
    """`x [R, N]` += `row [N]`."""
    if x.size < SMALL or namespace(x) is not numpy:
        x += row
    else:
        each(lambda part: numpy.add(x[part], row, out=x[part]), chunks(x))


def chunks(x: Array) -> list[slice]:
    """The rows of `x [R, N]` in chunks that stay in the cache, as many for each thread. Few, or a device's, are one."""
    (R, N), count = x.shape, threads()
    if x.size <= SMALL or namespace(x) is not numpy:
        return [slice(0, R)]
    rounds = -(-R // (max(1, CHUNK // N) * count))  # of a chunk for each thread
    height = -(-R // (rounds * count))
    return [slice(start, start + height) for start in range(0, R, height)]


def matmul(a: Array, b: Array, own: bool = False) -> Array:
    """`a @ b`, for two matrices or two stacks of matrices `[B, H, ...]` of the same B and H.

    own: in memory that no later training step takes, see `buffers.py`.
    """
    M, N = a.shape[-2], b.shape[-1]
    small = a.size * N < SMALL_PRODUCT and (M > 1 or b.size <= SMALL_WEIGHT)
    if small or namespace(a, b) is not numpy:
        return a @ b
    count, new = threads(), numpy.empty if own else empty
    out = new((*a.shape[:-1], N), numpy.result_type(a, b))
    if count == 1:
        numpy.matmul(a, b, out=out)
    elif a.ndim > 2:  # a stack: one matrix each
        places = list(numpy.ndindex(a.shape[:-2]))
        each(lambda place: numpy.matmul(a[place], b[place], out=out[place]), places)
    elif M >= N:
        each(lambda part: numpy.matmul(a[part], b, out=out[part]), parts(M, count))
    else:
        each(lambda part: numpy.matmul(a, b[:, part], out=out[:, part]), parts(N, count))
    return out


def parts(length: int, count: int, multiple: int = 16) -> list[slice]:
    """`length` cut into `count` slices, at multiples of `multiple`, as the kernels of BLAS like them."""
    step = max(1, -(-length // count // multiple)) * multiple
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]
