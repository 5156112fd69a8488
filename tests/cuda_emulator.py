"""CUDA kernels on a CPU: compiled by g++ as C++, with a header that gives CUDA's words their meaning.

For the tests of kernels where no GPU is. `cuda_emulator.h` says how threads, barriers and shared memory are played, and
which mistakes of a kernel show. `RawModule` plays CuPy's part and is stricter than that:

- What a kernel is launched with is held against its declaration: how many arguments, and for each its type. CuPy hands
  over the bytes and looks at nothing.
- Numbers must have a NumPy dtype: CuPy turns Python's into 64 bits, whatever the kernel reads.
- Arrays lie between guards while a kernel runs. What it writes there is an error, and what it reads there is NaN. Only
  those among the arguments: what a table of `array.data.ptr` points to is the array itself, without guards.
- Where CUDA's own compiler is installed (extra `dev`), minibloom's kernels must pass it too, each with all words that
  it is used with: NVRTC, which CuPy has compile them, and which knows fewer headers than `nvcc`. It needs no GPU.

It tells nothing about speed, about memory that two blocks write at once, or about how a GPU rounds.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy

HEADER = Path(__file__).with_suffix(".h")
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)')
DTYPES = {  # C's type -> NumPy's
    "float": "float32", "double": "float64", "__half": "float16", "__nv_bfloat16": "bfloat16 uint16",
    "bool": "bool", "signed char": "int8", "unsigned short": "uint16", "int": "int32", "unsigned": "uint32",
    "long long": "int64", "unsigned long long": "uint64",
}  # fmt: skip
GUARD = 4096  # bytes before and behind an array
SHARED = 48 * 1024  # bytes of shared memory that a block has
ARCHITECTURE = "compute_90"  # that of an H100 or H200


def compiler() -> str | None:
    """The C++ compiler there is, or None: then nothing can be emulated."""
    return shutil.which("g++")


@functools.cache
def nvrtc() -> tuple[ctypes.CDLL, Path] | None:
    """CUDA's own compiler and the folder of its headers, if they are installed as NVIDIA's wheels."""
    found = importlib.util.find_spec("nvidia")
    for place in [] if found is None else list(found.submodule_search_locations or []):
        for library in Path(place).glob("cu*/lib/libnvrtc.so.*"):
            headers = library.parent.parent / "include"
            if (headers / "cuda_fp16.h").exists():
                return ctypes.CDLL(str(library)), headers
    return None


def hold_against_cuda(code: str, options: Sequence[str]) -> None:
    """A CompileException if CUDA's own compiler, where there is one, refuses `code`."""
    found = nvrtc()
    if found is None:
        return
    library, headers = found
    words = [b"-std=c++17", f"--gpu-architecture={ARCHITECTURE}".encode(), f"-I{headers}".encode()]
    words += [option.encode() for option in options]
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None)
    refused = library.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    said = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, said)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    if refused:
        raise CompileException(said.value.decode())


class CompileException(Exception):
    """CuPy's: a kernel that is no CUDA."""


class LaunchError(Exception):
    """What a GPU would not have told."""


class RawModule:
    """CuPy's: the kernels of a source text."""

    def __init__(self, *, code: str, options: Sequence[str] = (), backend: str = "nvrtc") -> None:
        code = re.sub(r"//[^\n]*", "", code)  # comments, which may stand among parameters
        defined = dict(re.findall(r"-D(\w+)=([^\n]+)", "\n".join(options)))
        self._parameters = {name: _parameters(text, defined) for name, text in KERNEL.findall(code)}
        self._library = _compiled(code, tuple(option for option in options if option.startswith("-D")))

    def get_function(self, name: str) -> RawKernel:
        if name not in self._parameters:
            raise AttributeError(f"there is no kernel {name!r} among {list(self._parameters)}")
        return RawKernel(name, self._parameters[name], self._library)


class RawKernel:
    """CuPy's: `kernel(grid, block, arguments)`. `on_launch` of its class, if set, is given the launch in its place."""

    on_launch: Callable[[Callable[[], None]], None] | None = None

    def __init__(self, name: str, parameters: list[tuple[str, bool]], library: ctypes.CDLL) -> None:
        self.name, self._parameters, self._library = name, parameters, library

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0) -> None:
        if shared_mem:
            raise LaunchError("shared memory of a size that the launch decides is not emulated: declare its size.")
        if len(args) != len(self._parameters):
            raise LaunchError(f"{self.name} was given {len(args)} arguments, it has {len(self._parameters)} parameters")
        for i, (value, (kind, is_array)) in enumerate(zip(args, self._parameters, strict=True)):
            self._check(i, value, kind, is_array)
        sizes = [tuple(map(int, (*size, 1, 1)))[:3] for size in (grid, block)]
        if min(map(min, sizes)) < 1 or numpy.prod(sizes[1]) > 1024:
            raise LaunchError(f"{self.name} cannot be launched as a grid of {grid} blocks of {block} threads")
        launch = functools.partial(self._run, sizes, list(args))
        launch() if RawKernel.on_launch is None else RawKernel.on_launch(launch)

    def _check(self, i: int, value: Any, kind: str, is_array: bool) -> None:
        what = f"{self.name}, argument {i}"
        if is_array != hasattr(value, "_host"):
            raise LaunchError(f"{what} is {type(value)}, expected {'an array of the device' if is_array else kind}")
        if not is_array and not isinstance(value, numpy.generic):
            raise LaunchError(f"{what} is {value!r}, of which CuPy makes 64 bits: give it a NumPy dtype")
        if value.dtype.name not in DTYPES[kind].split():
            raise LaunchError(f"{what} holds {value.dtype}, the kernel reads {kind}")

    def _run(self, sizes: list[tuple[int, ...]], args: list[Any]) -> None:
        # What several arguments are views of is guarded once, so that what one writes the other reads.
        owners = {id(o): o for o in (_owner(a._host) for a in args if hasattr(a, "_host"))}
        guarded, guards = {}, {}
        for i, (key, owner) in enumerate(owners.items()):
            # NaN, and another one for each array: what is read behind one and written behind another shows.
            size = owner.nbytes + 2 * GUARD
            guards[key] = numpy.full(-(-size // 2), 0xFFFF - i, "u2").view("u1")[:size]
            guarded[key] = guards[key].copy()
            guarded[key][GUARD:-GUARD] = _bytes(owner)
        places = []
        for value in args:
            if hasattr(value, "_host"):
                owner = _owner(value._host)
                offset = value._host.ctypes.data - owner.ctypes.data
                places.append(ctypes.c_void_p(guarded[id(owner)].ctypes.data + GUARD + offset))
            else:
                places.append(ctypes.create_string_buffer(value.tobytes(), value.nbytes))
        pointers = (ctypes.c_void_p * len(places))(*(ctypes.addressof(place) for place in places))
        grid, block = ((ctypes.c_uint * 3)(*size) for size in sizes)
        function = ctypes.cast(getattr(self._library, f"emulated_{self.name}"), ctypes.c_void_p)
        failure = self._library.emulator_launch(function, pointers, grid, block)
        if failure:
            raise LaunchError(f"{self.name}: {failure.decode()}")
        for key, owner in owners.items():
            memory, guard = guarded[key], guards[key]
            if (memory[:GUARD] != guard[:GUARD]).any() or (memory[-GUARD:] != guard[-GUARD:]).any():
                raise LaunchError(f"{self.name} wrote outside of an array of shape {owner.shape}")
            _bytes(owner)[:] = memory[GUARD:-GUARD]


def _parameters(text: str, defined: dict[str, str]) -> list[tuple[str, bool]]:
    """The parameters of a declaration: C's type of each, and whether it is an array."""
    found = []
    for one in filter(None, map(str.strip, text.split(","))):
        words = re.sub(r"\bconst\b|__restrict__|\*", " ", one).split()[:-1]
        kind = " ".join(defined.get(word, word) for word in words)
        if kind not in DTYPES:
            raise CompileException(f"the parameter {one!r} has type {kind!r}, expected one of {list(DTYPES)}")
        found.append((kind, "*" in one))
    return found


@functools.cache
def _compiled(code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """The library made of a source text; once made, it is kept on disk."""
    calls = []
    for name, text in KERNEL.findall(code):
        types = [re.sub(r"\w+$", "", one.strip()).replace("__restrict__", "") for one in text.split(",") if one.strip()]
        values = ", ".join(f"*({kind}*)a[{i}]" for i, kind in enumerate(types))
        calls.append(f'extern "C" void emulated_{name}(void** a) {{ {name}({values}); }}')
    body = re.sub(r"#include\s*<cuda_\w+\.h>", "", code)
    defines = [
        f"#define {option[2:].replace('=', ' ', 1)}" for option in options
    ]  # behind the header, which has a T too
    source = "\n".join([f'#include "{HEADER}"', *defines, body, *calls])
    ours = "#include" in code  # kernels of the tests alone leave out what the emulator's header has
    checked = f"{nvrtc() is not None and ours}"
    key = hashlib.sha256((source + HEADER.read_text() + checked).encode()).hexdigest()[:32]
    folder = Path(tempfile.gettempdir()) / f"minibloom-emulated-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{key}.so"
    if not library.exists():
        if ours:
            hold_against_cuda(code, options)
        with tempfile.TemporaryDirectory(dir=folder) as made:
            text = Path(made) / "kernels.cpp"
            text.write_text(source)
            options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-U_FORTIFY_SOURCE"]  # which takes fibers for a mistake
            command = ["g++", *options, "-o", f"{made}/kernels.so", str(text)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise CompileException(done.stderr)
            Path(made, "kernels.so").replace(library)
    _check_shared(library)
    loaded = ctypes.CDLL(str(library))
    loaded.emulator_launch.restype = ctypes.c_char_p
    return loaded


def _check_shared(library: Path) -> None:
    """An error where a kernel declares more shared memory than a block has, without being asked for more."""
    sizes: dict[str, int] = {}
    symbols = subprocess.run(["nm", "-S", str(library)], capture_output=True, text=True, check=True).stdout
    for size, name in re.findall(r"^\w+ (\w+) [bd] _ZZ\d+([a-z]\w*?)E\d", symbols, re.MULTILINE | re.IGNORECASE):
        sizes[name] = sizes.get(name, 0) + int(size, 16)
    for name, size in sizes.items():
        if size > SHARED:
            raise CompileException(f"{name} uses too much shared memory: {size} bytes, of {SHARED}")


def _owner(array: numpy.ndarray) -> numpy.ndarray:
    """The array whose memory this one looks at."""
    while isinstance(array.base, numpy.ndarray):
        array = array.base
    return array


def _bytes(array: numpy.ndarray) -> numpy.ndarray:
    """The memory of an array that owns it, whatever the order of its axes."""
    return numpy.frombuffer((ctypes.c_ubyte * array.nbytes).from_address(array.ctypes.data), "u1")
