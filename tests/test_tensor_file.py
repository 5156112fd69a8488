"""The safetensors format: what is written is read back, and a damaged file is never taken for a whole one."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from minibloom.errors import InputError
from minibloom.tensor_file import (
    BLOCK,
    FLOATS,
    TensorEntry,
    from_bfloat16,
    read_header,
    read_tensors,
    same_values,
    stored_bytes,
    to_bfloat16,
    write_tensors,
)

Tensors = dict[str, tuple[numpy.ndarray, str]]

floats = st.floats(-60000, 60000, width=32)  # what float16 can hold too
arrays = arrays_of.arrays("float32", arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0), elements=floats)
names = st.text(max_size=12).filter(lambda name: name != "__metadata__")  # which the format keeps for itself
tensors = st.dictionaries(names, st.tuples(arrays, st.sampled_from([*FLOATS.values()])), max_size=4)
a_few = st.dictionaries(st.sampled_from("abc"), st.tuples(arrays, st.just("float32")), min_size=1)


def rounded(array: numpy.ndarray, dtype: str) -> numpy.ndarray:
    """What is left of float32 numbers once they are stored as `dtype`."""
    if dtype == "bfloat16":
        return from_bfloat16(to_bfloat16(array.reshape(-1))).reshape(array.shape)
    return array.astype(dtype).astype("float32")


# --- Round trips ---


@given(tensors, st.sampled_from(["float32", "float64"]))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, given: Tensors, compute: str) -> None:
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    write_tensors(path, given)
    entries = read_header(path)
    assert {name: (e.shape, FLOATS[e.dtype]) for name, e in entries.items()} == {
        name: (array.shape, dtype) for name, (array, dtype) in given.items()
    }
    read = read_tensors(entries, compute)
    assert list(read) == list(given) and {array.dtype.name for array in read.values()} <= {compute}
    for name, (array, dtype) in given.items():
        numpy.testing.assert_array_equal(read[name], rounded(array, dtype))


def test_a_tensor_of_many_blocks_is_read_whole(tmp_path: Path) -> None:
    array = numpy.arange(2 * BLOCK + 5, dtype="float32")
    write_tensors(tmp_path / "x", {"before": (array[:3], "float16"), "x": (array, "float32")})
    numpy.testing.assert_array_equal(read_tensors(read_header(tmp_path / "x"))["x"], array)


def test_the_data_begins_at_a_multiple_of_8_for_readers_that_map_the_file(tmp_path: Path) -> None:
    for name in ("a", "ab", "abc", "abcd"):
        write_tensors(tmp_path / "x", {name: (numpy.ones(3, "float32"), "float32")})
        assert read_header(tmp_path / "x")[name].begin % 8 == 0


@given(tensors)
def test_the_safetensors_package_reads_what_is_written_and_the_other_way_round(
    tmp_path_factory: pytest.TempPathFactory, given: Tensors
) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    given = {name: value for name, value in given.items() if value[1] != "bfloat16"}
    write_tensors(path, given)
    for name, array in load_file(path).items():
        numpy.testing.assert_array_equal(array, given[name][0].astype(given[name][1]))
        assert array.dtype == given[name][1]
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "pt"} and set(file.keys()) == set(given)

    save_file({name: array.astype(dtype) for name, (array, dtype) in given.items()}, path)
    read = read_tensors(read_header(path))
    assert read.keys() == given.keys()
    for name, (array, dtype) in given.items():
        numpy.testing.assert_array_equal(read[name], rounded(array, dtype))


@pytest.mark.parametrize("dtype", [*FLOATS.values(), "int8"])
def test_how_many_bytes_a_tensor_will_take_is_known_before_it_is_written(tmp_path: Path, dtype: str) -> None:
    matrix = numpy.ones((3, 5), "float32")
    write_tensors(tmp_path / "x", {"x": (matrix, dtype)})
    assert stored_bytes(matrix, dtype) == sum(e.end - e.begin for e in read_header(tmp_path / "x").values())


# --- bfloat16 ---


def test_every_bfloat16_survives_the_way_to_float32_and_back() -> None:
    bits = numpy.arange(2**16, dtype="uint16")
    values = from_bfloat16(bits)
    back = to_bfloat16(values)
    numbers = ~numpy.isnan(values)
    numpy.testing.assert_array_equal(back[numbers], bits[numbers])
    assert numpy.isnan(from_bfloat16(back[~numbers])).all()
    in_the_lower_half = numpy.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF], "uint32").view("float32")
    assert numpy.isnan(from_bfloat16(to_bfloat16(in_the_lower_half))).all()  # and none became an infinity


@given(arrays_of.arrays("float32", 20, elements=st.floats(width=32)))
def test_to_bfloat16_rounds_to_the_nearest_and_to_even_between_two(values: numpy.ndarray) -> None:
    bits = to_bfloat16(values)
    finite = numpy.isfinite(values) & (numpy.abs(values) < 3.38e38)
    x, bits = values[finite].astype("float64"), bits[finite]
    chosen = numpy.abs(from_bfloat16(bits) - x)
    for other in (bits - 1, bits + 1):  # the neighbours, where a step does not leave the numbers or change the sign
        neighbour = from_bfloat16(other.astype("uint16")).astype("float64")
        real = numpy.isfinite(neighbour) & (numpy.signbit(neighbour) == numpy.signbit(x))
        distance = numpy.abs(neighbour - x)
        assert (chosen <= distance)[real].all()
        assert (bits % 2 == 0)[real & (chosen == distance) & (chosen > 0)].all()


def test_bfloat16_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    bits = numpy.random.default_rng(0).integers(0, 2**32, 100_000, dtype="uint32")
    values = bits.view("float32")[~numpy.isnan(bits.view("float32"))]
    theirs = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    numpy.testing.assert_array_equal(to_bfloat16(values), theirs)


# --- Equal tensors ---


def test_same_values_compares_numbers_and_not_bytes(tmp_path: Path) -> None:
    array = numpy.arange(BLOCK + 9, dtype="float32") % 128
    other = array.copy()
    other[-1] += 1
    kept: Tensors = {"a": (array, "float32"), "half": (array, "bfloat16"), "other": (other, "float32")}
    write_tensors(tmp_path / "x", kept | {"shape": (array[None], "float32")})
    e = read_header(tmp_path / "x")
    assert same_values(e["a"], e["a"]) and same_values(e["a"], e["half"])
    assert not same_values(e["a"], e["other"]) and not same_values(e["a"], e["shape"])


# --- Damage ---


@given(a_few, st.data())
def test_a_damaged_header_is_the_same_tensors_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, given: Tensors, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    write_tensors(path, given)
    whole = path.read_bytes()
    before = {name: (array.shape, array.tobytes()) for name, array in read_tensors(read_header(path)).items()}
    header = 8 + int.from_bytes(whole[:8], "little")
    damaged = bytearray(whole)
    for position in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=3, unique=True)):
        damaged[position] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        read = read_tensors(read_header(path))
    except InputError as error:
        assert "x.safetensors" in str(error)
    else:  # a name or an equal shape may have changed, never a number: names and shapes are checked by match_names
        assert sorted(array.tobytes() for array in read.values()) == sorted(content for _, content in before.values())


@given(a_few, st.data())
def test_a_truncated_file_is_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, given: Tensors, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    write_tensors(path, given)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(InputError, match=r"x.safetensors is (truncated|corrupt)"):
        read_header(path)
    path.write_bytes(whole + b"more")
    with pytest.raises(InputError, match=r"x.safetensors is corrupt"):
        read_header(path)


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_an_input_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x.safetensors"):
        read_header(path)


def file_with(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def field(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"{", "is corrupt: its header is no valid JSON"),
        (b"[" * 100_000, "is corrupt: its header is no valid JSON"),
        (b'{"a": NaN}', "tensor 'a' has no dtype, shape and data_offsets"),
        (b'{"\\ud800": 1}', r"tensor '\\ud800' has no dtype"),
        ([], "is corrupt: its header is no JSON object"),
        (b'{"a": 1, "a": 2}', "'a' stands there twice"),
        ({"a": {"dtype": "F32"}}, "tensor 'a' has no dtype, shape and data_offsets"),
        ({"a": field(dtype="F7")}, "tensor 'a' has dtype 'F7', expected one of F16, BF16, F32, F64"),
        ({"a": field(shape=[-1])}, r"tensor 'a' has shape \[-1\]"),
        ({"a": field(shape=[True])}, r"tensor 'a' has shape \[True\]"),
        ({"a": field(shape=[1.0])}, r"tensor 'a' has shape \[1.0\]"),
        ({"a": field(shape=[2])}, r"tensor 'a' has 4 bytes, expected 8 for F32 \[2\]"),
        ({"a": field(shape=[2**62, 2**62])}, "tensor 'a' has 4 bytes, expected"),
        ({"a": field(offsets=[4, 8])}, "tensor 'a' begins at byte .* the data has a gap"),
        ({"a": field(), "b": field()}, "tensor 'b' begins at byte"),
        ({"a": field(), "b": field(offsets=[4, 8])}, "is truncated: it has"),
        ({}, "is corrupt: it has"),
    ],
)
def test_an_impossible_header_is_an_error_that_names_file_and_tensor(tmp_path: Path, header: Any, problem: str) -> None:
    with pytest.raises(InputError, match=f"x.safetensors.*{problem}"):
        read_header(file_with(tmp_path / "x.safetensors", header, b"1234"))


def test_a_header_that_claims_gigabytes_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for claim in (2**64 - 1, 10**9):
        path.write_bytes(claim.to_bytes(8, "little"))
        with path.open("r+b") as file:
            file.truncate(2 * 10**9)  # a hole: takes no space
        with pytest.raises(InputError, match="is truncated or not safetensors"):
            read_header(path)


def test_a_missing_file_and_a_folder_in_its_place_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing.safetensors does not exist"):
        read_header(tmp_path / "nothing.safetensors")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_header(tmp_path)


@pytest.mark.parametrize("compute", ["float32", "float64"])  # at once, and in blocks
def test_a_file_that_is_cut_after_its_header_was_read_is_named(tmp_path: Path, compute: str) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": (numpy.ones(1000, "float32"), "float32")})
    entries = read_header(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"x.safetensors was changed or replaced since"):
        read_tensors(entries, compute)
    unseen = {name: entry._replace(version=None) for name, entry in entries.items()}  # as where it is cut just then
    with pytest.raises(InputError, match="tensor 'a' ends early"):
        read_tensors(unseen, compute)


# --- Memory ---

PEAK = """
import re, sys
from minibloom.tensor_file import read_header, read_tensors
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
read_tensors(read_header(sys.argv[1]), sys.argv[3])  # a small file first: what reading needs once
before = peak()
arrays = read_tensors(read_header(sys.argv[2]), sys.argv[3])
print((peak() - before) / sum(array.nbytes for array in arrays.values()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak (getrusage tells a parent's)")
@pytest.mark.parametrize(("code", "compute"), [("BF16", "float32"), ("F16", "float64"), ("F32", "float32")])
def test_reading_peaks_at_no_more_than_1_2_times_the_arrays(tmp_path: Path, code: str, compute: str) -> None:
    shapes = {"embedding": (20_000, 1000), "wide": (4000, 1000), "tall": (1000, 4000), "bias": (1000,)}
    header, end = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape) * (4 if code == "F32" else 2)
        header[name] = field(code, shape, (end, end + size))
        end += size
    large = file_with(tmp_path / "large", header)
    with large.open("r+b") as file:
        file.truncate(large.stat().st_size + end)  # all zeros, and no space taken on the disk
    small = tmp_path / "small"
    write_tensors(small, {"x": (numpy.ones(BLOCK, "float32"), FLOATS[code])})
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(small), str(large), compute], capture_output=True, text=True, check=True
    )
    assert 0.9 < float(done.stdout) <= 1.2


def test_an_entry_says_where_it_lies() -> None:
    assert str(TensorEntry("ln_f.bias", Path("a/b"), "F32", (1,), 0, 4)) == "a/b: tensor 'ln_f.bias'"


@pytest.mark.parametrize("weights", [None, "float32", "bfloat16", "int8"])
def test_numbers_that_are_too_large_for_what_is_computed_in_are_said_with_their_tensor(tmp_path, weights):
    """In a file of float64. Infinity and NaN are read as they are, but for int8."""
    numbers = numpy.zeros((2, BLOCK // 2 + 5))
    write_tensors(tmp_path / "good.safetensors", {"good": (numpy.array([numpy.inf, 1e-300]), "float64")})
    numpy.testing.assert_array_equal(
        read_tensors(read_header(tmp_path / "good.safetensors"), weights=weights)["good"], [numpy.inf, 0]
    )
    numbers[1, -1] = -1e39
    write_tensors(tmp_path / "x.safetensors", {"big": (numbers, "float64")})
    entries = read_header(tmp_path / "x.safetensors")
    why = "which int8 cannot hold" if weights == "int8" else f"too large for {weights or 'float32'}"
    with pytest.raises(InputError, match=rf"params\['big'\] holds -1e\+39, {why}: use float64"):
        read_tensors(entries, weights=weights)
    numpy.testing.assert_array_equal(read_tensors(entries, "float64")["big"], numbers)
