"""A stand-in for CuPy: its arrays are NumPy's inside, and as strict as those of a device.

`cupy` is the module that plays CuPy's part, in `sys.modules["cupy"]`: the library cannot tell. What it refuses is what
would fail, or silently cost time, on a GPU that is not there when the tests run:

- Implicit conversion. `numpy.asarray(a)` is CuPy's own TypeError; `a.get()` is the way to the host.
- Arrays of the host among those of the device, in operators, functions and indices. CuPy takes Python's numbers and
  NumPy's scalars, which keep their dtype (`numpy.float64(2)` makes float64), and refuses NumPy's arrays, those without
  dimensions too. Here it is stricter: an index that is a NumPy array, which CuPy copies to the device, is refused, and
  so are NumPy's functions, some of which CuPy would run on the device (`numpy.exp(a)`).
- Silent synchronisation, within `no_sync()`: `bool`, `int`, `float`, `item`, `tolist`, `print`, results whose size
  depends on values (`nonzero`, `unique`, a mask as an index), and going through single numbers. An explicit `get` is
  not silent; `no_sync(copies=0)` refuses it too.
- What CuPy 14.2 lacks: names, arguments (`argsort(kind="quicksort")`), `errstate`, `__array_namespace__`. Products of
  stacks of matrices in other dtypes than float32 and float64, for which it has no fast path, are refused as well; of
  two matrices of 16-bit numbers, the sum is rounded once.
- More memory than there is, within `memory(free)`: an array that is larger is CuPy's OutOfMemoryError.
- While a stream is captured, all but launches of kernels (`RawModule`); those wait for `graph.launch()`. CuPy allows
  some more, but no matrix products, and no array that is made then may be used later.

Kernels in CUDA are compiled for the CPU, where there is a compiler: see `cuda_emulator.py`.

Reductions and single numbers are arrays without dimensions, as there. What it does not have is a device's speed, its
rounding, and its silence about an index out of bounds, which CuPy wraps around and NumPy refuses.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy

from . import cuda_emulator

IMPLICIT = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)
TOTAL = 2**28  # bytes of the device


class SilentSync(RuntimeError):
    """The host would wait for the device here, and nothing in the code says so."""


@dataclass
class Device:
    """What has happened on it, and what is allowed."""

    syncs: int = 0  # silent ones
    copies: int = 0  # explicit ones, to the host
    made: int = 0  # arrays with memory of their own, each by a launch at least
    silent_allowed: bool = True
    copies_left: int | None = None  # None: any number
    free: int = TOTAL  # bytes
    captured: list[Callable[[], None]] | None = None  # launches, while a stream is captured

    def sync(self, what: str) -> None:
        if not self.silent_allowed:
            raise SilentSync(f"{what} waits for the device. Decide on the host, or copy with `.get()`.")
        self.syncs += 1

    def copy(self) -> None:
        if self.copies_left is not None:
            if self.copies_left == 0:
                raise SilentSync("one copy to the host more than were allowed.")
            self.copies_left -= 1
        self.copies += 1


device = Device()


@contextmanager
def no_sync(copies: int | None = None) -> Iterator[None]:
    """In this block, a silent synchronisation is an error; and so are more than `copies` explicit ones, if given."""
    before = device.silent_allowed, device.copies_left
    device.silent_allowed, device.copies_left = False, copies
    try:
        yield
    finally:
        device.silent_allowed, device.copies_left = before


@contextmanager
def memory(free: int) -> Iterator[None]:
    """In this block, the device has room for arrays of at most `free` bytes."""
    device.free = free
    try:
        yield
    finally:
        device.free = TOTAL


class OutOfMemoryError(MemoryError):
    """CuPy's, with its attributes."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        self._size, self._total, self._limit = size, total, limit
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


# --- between the two ---


def to_host(x: Any) -> Any:
    """An operand, index or argument as NumPy computes with it; an array of the host is refused."""
    if type(x) is ndarray:
        return x._host
    if isinstance(x, numpy.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, list | tuple):
        return type(x)(map(to_host, x))
    return x


def to_device(y: Any) -> Any:
    """What NumPy returns, as an array of the device: single numbers too."""
    if isinstance(y, tuple):
        return tuple(map(to_device, y))
    if not isinstance(y, numpy.ndarray | numpy.generic):
        return y
    if y.nbytes > device.free and getattr(y, "base", None) is None:
        raise OutOfMemoryError(y.nbytes, TOTAL - device.free)
    if device.captured is not None:
        raise RuntimeError("operation not permitted when stream is capturing: only kernels are captured here.")
    device.made += getattr(y, "base", None) is None
    made = ndarray.__new__(ndarray)
    made._host = numpy.asarray(y)
    return made


def elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, of arrays and scalars of the device: no lists, as for CuPy."""

    def run(*arrays: Any, **options: Any) -> Any:
        if any(isinstance(x, list | tuple) for x in arrays):
            raise TypeError(f"Unsupported type {list}")
        out = options.get("out")
        result = to_device(function(*map(to_host, arrays), **{name: to_host(x) for name, x in options.items()}))
        return result if out is None else out

    return run


def method(name: str) -> Callable[..., Any]:
    def run(self: ndarray, *arguments: Any, **options: Any) -> Any:
        call = getattr(self._host, name)
        return to_device(call(*map(to_host, arguments), **{key: to_host(x) for key, x in options.items()}))

    return run


class ndarray:
    """CuPy's array."""

    __slots__ = ("__weakref__", "_host")
    __hash__ = None  # type: ignore[assignment]
    __array_priority__ = 100
    __array_ufunc__ = None  # so that NumPy's arrays and scalars leave operators to this class
    _host: numpy.ndarray

    def __array__(self, *_: Any, **__: Any) -> numpy.ndarray:
        raise TypeError(IMPLICIT)

    def __array_function__(self, function: Any, *_: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was given an array of the device: use the array's own library.")

    def get(self) -> numpy.ndarray:
        """A copy on the host."""
        device.copy()
        return self._host.copy()

    def set(self, array: numpy.ndarray) -> None:
        """Fill from an array of the host."""
        self._host[...] = array

    # --- what makes the host wait ---

    def __bool__(self) -> bool:
        device.sync("bool(array)")
        return bool(self._host)

    def __int__(self) -> int:
        device.sync("int(array)")
        return int(self._host)

    def __float__(self) -> float:
        device.sync("float(array)")
        return float(self._host)

    def item(self, *place: int) -> Any:
        device.sync("array.item()")
        return self._host.item(*place)

    def tolist(self) -> Any:
        device.sync("array.tolist()")
        return self._host.tolist()

    def tobytes(self) -> bytes:
        device.sync("array.tobytes()")
        return self._host.tobytes()

    def argpartition(self, kth: int, axis: int | None = -1) -> ndarray:
        device.sync("array.argpartition()")  # CuPy sorts all of it, and looks whether its indices are right
        return to_device(self._host.argpartition(kth, axis))

    def nonzero(self) -> tuple[ndarray, ...]:
        device.sync("array.nonzero()")
        return to_device(self._host.nonzero())

    def __repr__(self) -> str:
        device.sync("repr(array)")
        return repr(self._host)

    def __str__(self) -> str:
        device.sync("str(array)")
        return str(self._host)

    def __format__(self, spec: str) -> str:
        device.sync("format(array)")
        return format(self._host[()], spec)

    def __iter__(self) -> Iterator[ndarray]:
        if self.ndim < 2:
            device.sync("going through the numbers of an array")
        return (self[i] for i in range(len(self)))

    # --- indices ---

    def __getitem__(self, index: Any) -> ndarray:
        return to_device(self._host[self._place(index, "an index that is a mask")])

    def __setitem__(self, index: Any, value: Any) -> None:
        alone = isinstance(index, ndarray) and not isinstance(value, ndarray)  # a mask and a scalar: CuPy only writes
        place = self._place(index, "" if alone else "an index that is a mask")
        if isinstance(value, list | tuple):
            raise TypeError(f"Unsupported type {type(value)}")
        self._host[place] = to_host(value)

    @staticmethod
    def _place(index: Any, what: str) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        if what and any(isinstance(part, ndarray) and part.dtype == bool for part in parts):
            device.sync(what)
        place = tuple(map(to_host, parts))
        return place if any(part is Ellipsis for part in place) else (*place, Ellipsis)  # a number is a view too

    # --- what it is ---

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data))  # for kernels that read it in a table
    T = property(lambda self: to_device(self._host.T))
    base = property(lambda self: None if self._host.base is None else to_device(self._host.base))

    def __len__(self) -> int:
        return len(self._host)

    def astype(self, dtype: Any, order: str = "K", casting: None = None, subok: None = None, copy: bool = True) -> Any:
        return self if not copy and self.dtype == dtype else to_device(self._host.astype(dtype, order=order))

    def argsort(self, axis: int | None = -1, kind: str | None = None) -> ndarray:
        return cupy.argsort(self, axis, kind)

    def sort(self, axis: int = -1, kind: str | None = None) -> None:
        self._host[...] = cupy.sort(self, axis, kind)._host

    def __matmul__(self, other: Any) -> Any:
        return cupy.matmul(self, other) if isinstance(other, ndarray) else NotImplemented

    def __rmatmul__(self, other: Any) -> Any:
        raise TypeError(f"Unsupported type {type(other)}")

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, _: Any) -> ndarray:
        return self.copy()


METHODS = """
    all any argmax argmin clip copy cumsum dot fill flatten max mean min prod ravel repeat reshape round
    squeeze std sum swapaxes take transpose var view
"""
TWO_WAYS = "add sub mul truediv floordiv mod pow and_ or_ xor lshift rshift"
ONE_WAY = "eq ne lt le gt ge neg pos abs invert"


def give_operator(name: str, two_ways: bool) -> None:
    """Let arrays have one of Python's operators: also with the array on the right, and in place."""
    plain, bare = getattr(operator, name), name.strip("_")
    setattr(ndarray, f"__{bare}__", elementwise(plain))
    if two_ways:
        in_place = getattr(operator, f"i{bare}")

        def change(self: ndarray, other: Any) -> ndarray:
            in_place(self._host, to_host(other))
            return self

        setattr(ndarray, f"__r{bare}__", lambda self, other: elementwise(plain)(other, self))
        setattr(ndarray, f"__i{bare}__", change)


for name in METHODS.split():
    setattr(ndarray, name, method(name))
for name in TWO_WAYS.split():
    give_operator(name, two_ways=True)
for name in ONE_WAY.split():
    give_operator(name, two_ways=False)
ndarray.__module__ = "cupy"


# --- the module: a list of what is there, each checked against CuPy 14.2 ---

cupy: Any = ModuleType("cupy")
cupy.ndarray = ndarray

UFUNCS = """
    abs absolute add arctan2 bitwise_and bitwise_or bitwise_xor ceil cos divide equal exp exp2 expm1 floor floor_divide
    greater greater_equal invert isfinite isinf isnan left_shift less less_equal log log1p log2 logaddexp logical_and
    logical_not logical_or logical_xor maximum minimum multiply negative not_equal power reciprocal remainder
    right_shift rint sign sin sqrt square subtract tanh true_divide
"""
FUNCTIONS = """
    all amax amin any argmax argmin broadcast_to count_nonzero cumsum diff dot expand_dims flip isin max
    mean min moveaxis nan_to_num partition prod put_along_axis ravel repeat reshape roll searchsorted squeeze std sum
    swapaxes take take_along_axis tensordot tile transpose tril triu trunc var vdot clip pad
"""
SYNCING = "argpartition argwhere array_equal allclose bincount flatnonzero nonzero unique"
JOINING = "concatenate stack hstack vstack broadcast_arrays"
MAKING = "arange empty full linspace ones zeros eye empty_like full_like ones_like zeros_like"
CONSTANTS = """
    bool_ dtype e euler_gamma finfo float16 float32 float64 iinfo inf int16 int32 int64 int8 issubdtype nan ndindex
    newaxis pi uint16 uint32 uint64 uint8
"""


class Ufunc:
    """A function of each number, which adds up in place too: `add.at`."""

    def __init__(self, name: str) -> None:
        self._numpy = getattr(numpy, name)
        self._call = elementwise(self._numpy)

    def __call__(self, *arrays: Any, **options: Any) -> Any:
        unknown = options.keys() - {"out", "dtype", "casting"}
        if unknown:
            raise TypeError(f"Wrong arguments {', '.join(sorted(unknown))}")
        return self._call(*arrays, **options)

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        if a.dtype.kind != "f":
            raise TypeError(f"scatter_add supports no {a.dtype}")
        self._numpy.at(a._host, to_host(indices), to_host(b))


def array_first(name: str) -> Callable[..., Any]:
    plain, syncs = getattr(numpy, name), name in SYNCING.split()

    def run(a: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(a, ndarray):
            raise TypeError(f"cupy.{name} was given {type(a)}, expected cupy.ndarray")
        if syncs:
            device.sync(f"cupy.{name}")
        return to_device(plain(a._host, *map(to_host, arguments), **{key: to_host(x) for key, x in options.items()}))

    return run


def joining(name: str) -> Callable[..., Any]:
    return lambda arrays, *more, **options: to_device(getattr(numpy, name)(to_host(arrays), *more, **options))


def making(name: str) -> Callable[..., Any]:
    plain = getattr(numpy, name)
    return lambda *arguments, **options: to_device(plain(*map(to_host, arguments), **options))


for name in UFUNCS.split():
    setattr(cupy, name, Ufunc(name))
for name in FUNCTIONS.split() + SYNCING.split():
    setattr(cupy, name, array_first(name))
for name in JOINING.split():
    setattr(cupy, name, joining(name))
for name in MAKING.split():
    setattr(cupy, name, making(name))
for name in CONSTANTS.split():
    setattr(cupy, name, getattr(numpy, name))


def provided(function: Callable[..., Any]) -> Callable[..., Any]:
    """Put a function into the module, under its own name."""
    setattr(cupy, function.__name__, function)
    return function


@provided
def asarray(a: Any, dtype: Any = None) -> ndarray:
    """The one way from the host to the device."""
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    return to_device(numpy.array(a, dtype=dtype))


@provided
def array(obj: Any, dtype: Any = None, copy: bool = True) -> ndarray:
    return to_device(numpy.array(to_host(obj) if isinstance(obj, ndarray) else obj, dtype=dtype, copy=copy))


@provided
def asnumpy(a: Any) -> numpy.ndarray:
    return a.get() if isinstance(a, ndarray) else numpy.asarray(a)


@provided
def matmul(x1: Any, x2: Any, out: Any = None) -> ndarray:
    a, b = to_host(x1), to_host(x2)
    kinds = {x.dtype.name for x in (a, b)}
    if kinds & {"float16", "bfloat16"}:
        if a.ndim != 2 or b.ndim != 2 or len(kinds) > 1 or out is not None:
            raise TypeError(f"this product of {', '.join(kinds)} is slow, or fails: compute it in float32.")
        return to_device(half_product(a, b))
    if max(a.ndim, b.ndim) > 2 and kinds - {"float32", "float64"}:
        raise TypeError(f"a product of stacks of {kinds.pop()} is slow, or fails: compute it in float32.")
    result = to_device(numpy.matmul(a, b, out=to_host(out)))
    return result if out is None else out


def half_product(a: numpy.ndarray, b: numpy.ndarray) -> numpy.ndarray:
    """Two matrices of 16-bit numbers: summed in float32 and rounded once; of a single number, each product too."""
    wide, other = a.astype("f4"), b.astype("f4")
    if len(a) == b.shape[1] == 1:
        return (wide * other.T).astype(a.dtype).astype("f4").sum(keepdims=True).astype(a.dtype)
    return (wide @ other).astype(a.dtype)


@provided
def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if not isinstance(condition, ndarray):
        raise AttributeError(f"{type(condition).__name__!r} object has no attribute 'astype'")
    if x is None and y is None:
        return condition.nonzero()
    return elementwise(numpy.where)(condition, x, y)


@provided
def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: Any = True) -> None:
    numpy.copyto(dst._host, to_host(src), casting=casting, where=to_host(where))


@provided
def sort(a: ndarray, axis: int | None = -1, kind: str | None = None) -> ndarray:
    return to_device(numpy.sort(a._host, axis, kind=_stable(kind)))


@provided
def argsort(a: ndarray, axis: int | None = -1, kind: str | None = None) -> ndarray:
    return to_device(numpy.argsort(a._host, axis, kind=_stable(kind)))


def _stable(kind: str | None) -> str:
    if kind not in (None, "stable"):
        raise ValueError(f"kind can only be None or 'stable', got {kind!r}")
    return "stable"


@provided
def result_type(*arrays_and_dtypes: Any) -> numpy.dtype:
    return numpy.result_type(*map(to_host, arrays_and_dtypes))


@provided
def get_default_memory_pool() -> Any:
    return SimpleNamespace(free_bytes=lambda: 0, total_bytes=lambda: 0, free_all_blocks=_nothing)


def _nothing() -> None:
    pass


class Generator:
    """Draws on the device. Not the numbers that a GPU would draw."""

    def __init__(self, seed: Any) -> None:
        self._rng = numpy.random.Generator(numpy.random.Philox(seed))

    def random(self, size: Any = None, dtype: Any = "float64") -> ndarray:
        return to_device(self._rng.random(size, dtype))


class Stream:
    """An order of work. All of the stand-in's work is done at once, but for what is captured."""

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self._may_capture = non_blocking and not null

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def begin_capture(self, mode: Any = None) -> None:
        if not self._may_capture or device.captured is not None:
            raise RuntimeError("cannot capture: expected a stream made with non_blocking=True, and no other capture.")
        device.captured = []
        cuda_emulator.RawKernel.on_launch = device.captured.append

    def end_capture(self) -> Graph:
        if device.captured is None:
            raise RuntimeError("there is no capture to end.")
        launches, device.captured = device.captured, None
        cuda_emulator.RawKernel.on_launch = None
        return Graph(launches)

    def synchronize(self) -> None:
        device.copy()


class Graph:
    """Launches that were captured, to be done as one."""

    def __init__(self, launches: list[Callable[[], None]]) -> None:
        self._launches = launches

    def launch(self, stream: Any = None) -> None:
        for launch in self._launches:
            launch()


cupy.random = SimpleNamespace(default_rng=Generator, Philox4x3210=lambda seed=None: seed)
cupy.cuda = SimpleNamespace(
    is_available=lambda: True,
    memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    runtime=SimpleNamespace(
        memGetInfo=lambda: (device.free, TOTAL),
        getDeviceProperties=lambda _: {"name": b"a stand-in"},
        driverGetVersion=lambda: 0,
        runtimeGetVersion=lambda: 0,
        deviceSynchronize=_nothing,
    ),
    Stream=Stream,
)
cupy.__version__ = "a stand-in"
if cuda_emulator.compiler():
    cupy.RawModule = cuda_emulator.RawModule
