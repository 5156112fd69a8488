"""The emulator of CUDA runs kernels as a GPU does, and tells of mistakes that a GPU keeps to itself."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from . import cuda_emulator, standin

pytestmark = pytest.mark.skipif(
    cuda_emulator.compiler() is None, reason="kernels are emulated with g++, which is not here"
)
cupy = standin.cupy

SUM = """
extern "C" __global__ void sum_rows(const T* __restrict__ x, float* y, int width) {
    __shared__ float parts[8];
    float sum = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += widen(x[(long long)blockIdx.x * width + i]);
    for (int bits = 16; bits; bits /= 2) sum += __shfl_xor_sync(0xffffffff, sum, bits);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < blockDim.x / 32; i++) sum += parts[i];
        y[blockIdx.x] = sum;
    }
}
"""
WIDEN = """
__device__ float widen(float x) { return x; }
__device__ float widen(__half x) { return __half2float(x); }
__device__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
"""


def kernel(body: str, parameters: str = "float* y", **defined: str) -> Any:
    code = body if "__global__" in body else f'extern "C" __global__ void of_test({parameters}) {{ {body} }}'
    module = cupy.RawModule(code=code, options=tuple(f"-D{name}={text}" for name, text in defined.items()))
    return module.get_function(next(iter(module._parameters)))


@pytest.mark.parametrize("kind, dtype", [("float", "float32"), ("__half", "float16"), ("__nv_bfloat16", "uint16")])
def test_threads_warps_and_shared_memory(kind: str, dtype: str) -> None:
    rng = numpy.random.default_rng(0)
    whole = rng.integers(-8, 8, (5, 100)).astype("f4")  # exact in each of the three
    x = (whole.view("u4") >> 16).astype("u2") if dtype == "uint16" else whole.astype(dtype)
    y = cupy.zeros(5, "float32")
    kernel(WIDEN + SUM, T=kind)((5,), (64,), (cupy.asarray(x), y, numpy.int32(100)))
    assert (y.get() == whole.sum(1)).all()


def test_float16_and_bfloat16_are_rounded_to_the_nearest() -> None:
    x = numpy.random.default_rng(1).standard_normal(1000).astype("f4") * 100
    half, upper = cupy.zeros(1000, "float16"), cupy.zeros(1000, "uint16")
    both = "int i = threadIdx.x; y[i] = __float2half(x[i]); z[i] = __float2bfloat16(x[i]);"
    kernel(both, "const float* x, __half* y, __nv_bfloat16* z")((1,), (1000,), (cupy.asarray(x), half, upper))
    assert (half.get() == x.astype("f2")).all()
    from minibloom.layers.small_weights import to_bfloat16

    assert (upper.get() == to_bfloat16(x)).all()


def test_views_of_one_array_are_one_memory() -> None:
    x = cupy.zeros((2, 4), "float32")
    kernel("y[threadIdx.x] += 1; z[threadIdx.x] += 2;", "float* y, float* z")((1,), (4,), (x[1], x))
    assert x.get().tolist() == [[2, 2, 2, 2], [1, 1, 1, 1]]


def test_an_array_may_have_its_axes_in_any_order_in_memory() -> None:
    x = cupy.asarray(numpy.arange(24.0, dtype="f4").reshape(2, 3, 4))
    moved = x.transpose(1, 0, 2).copy(order="K")  # laid out as x is
    assert not moved.flags.c_contiguous and not moved.flags.f_contiguous
    kernel("y[threadIdx.x] += 1;")((1,), (24,), (moved,))
    assert (moved.get() == (x + 1).transpose(1, 0, 2).get()).all()


def test_a_block_votes() -> None:
    y = cupy.zeros((3, 64), "float32")
    body = """
    y[threadIdx.x] = __syncthreads_or(threadIdx.x == n);
    y[64 + threadIdx.x] = __syncthreads_and(threadIdx.x != n);
    y[128 + threadIdx.x] = __syncthreads_count(threadIdx.x > n);
    """
    for n, expected in ((5, (1, 0, 58)), (99, (0, 1, 0))):
        kernel(body, "float* y, int n")((1,), (64,), (y, numpy.int32(n)))
        assert (y.get() == numpy.float32(expected)[:, None]).all()


def test_what_a_table_of_pointers_points_to_is_the_array_itself() -> None:
    x, table = cupy.zeros((2, 4), "float32"), cupy.zeros(1, "uint64")
    table[0] = x[1].data.ptr
    kernel("((float*)y[0])[threadIdx.x] = threadIdx.x;", "const unsigned long long* y")((1,), (4,), (table,))
    assert x.get().tolist() == [[0, 0, 0, 0], [0, 1, 2, 3]]


MISTAKES = {
    "a barrier that some do not reach": ("if (threadIdx.x < 7) return; __syncthreads(); y[0] = 1;", "have ended"),
    "an exchange that some do not come to": (
        "if (threadIdx.x < 7) y[0] = __shfl_xor_sync(0xffffffff, 1.0f, 1);", "of one warp wait"
    ),
    "an exchange of a part of a warp": ("y[0] = __shfl_xor_sync(0xffff, 1.0f, 1);", "a part of a warp"),
    "a number behind the array": ("y[64 + threadIdx.x] = 1;", "outside of an array"),
    "what was read behind another array": ("y[64 + threadIdx.x] = z[64 + threadIdx.x];", "outside of an array"),
    "a number before the array": ("y[-1] = 1;", "outside of an array"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_an_error(mistake: str) -> None:
    body, said = MISTAKES[mistake]
    with pytest.raises(cuda_emulator.LaunchError, match=said):
        arrays = cupy.zeros(64, "float32"), cupy.zeros(64, "float32")
        kernel(body, "float* y, const float* z")((1,), (64,), arrays)


def test_what_was_never_written_is_nan() -> None:
    y = cupy.zeros(64, "float32")
    kernel("__shared__ float s[64]; y[threadIdx.x] = s[threadIdx.x];")((1,), (64,), (y,))
    assert numpy.isnan(y.get()).all()
    kernel("y[threadIdx.x] = y[64 + threadIdx.x];")((1,), (64,), (y,))
    assert numpy.isnan(y.get()).all()


def test_a_missing_barrier_shows() -> None:
    y = cupy.zeros(256, "float32")
    body = "__shared__ float s[256]; s[threadIdx.x] = threadIdx.x; {} y[threadIdx.x] = s[255 - threadIdx.x];"
    kernel(body.format("__syncthreads();"))((1,), (256,), (y,))
    assert (y.get() == numpy.arange(256)[::-1]).all()
    kernel(body.format(""))((1,), (256,), (y,))
    assert not (y.get() == numpy.arange(256)[::-1]).all()


def test_a_warp_may_be_ahead_of_another() -> None:
    """Whoever writes over what others still read needs a barrier between, though all of them come to it soon."""
    y = cupy.zeros((50, 64), "float32")
    body = """
    __shared__ float s[64];
    s[threadIdx.x] = 1; __syncthreads(); float x = s[63 - threadIdx.x];
    for (int i = 0; i < 20; i++) __syncwarp();
    {} s[threadIdx.x] = 2; y[blockIdx.x * 64 + threadIdx.x] = x;
    """
    kernel(body.format("__syncthreads();"))((50,), (64,), (y,))
    assert (y.get() == 1).all()
    kernel(body.format(""))((50,), (64,), (y,))
    assert (y.get() == 2).any()


ARGUMENTS = {
    "too few": ((), "0 arguments"),
    "an array of the host": ((numpy.zeros(4, "f4"), numpy.int32(1)), "array of the device"),
    "another dtype": ((cupy.zeros(4), numpy.int32(1)), "holds float64, the kernel reads float"),
    "a number of Python": ((cupy.zeros(4, "f4"), 1), "64 bits"),
    "another number": ((cupy.zeros(4, "f4"), numpy.int64(1)), "holds int64, the kernel reads int"),
}


@pytest.mark.parametrize("what", ARGUMENTS)
def test_arguments_are_held_against_the_declaration(what: str) -> None:
    args, said = ARGUMENTS[what]
    with pytest.raises(cuda_emulator.LaunchError, match=said):
        kernel("y[threadIdx.x] = n;", "float* y, int n")((1,), (4,), args)


def test_more_shared_memory_than_a_block_has_is_an_error() -> None:
    body = "__shared__ float4 s[{}]; s[threadIdx.x].x = y[0]; y[0] = s[0].x;"
    kernel(body.format(3072))
    with pytest.raises(cuda_emulator.CompileException, match="of_test uses too much shared memory: 49168 bytes"):
        kernel(body.format(3073))


def test_parameters_may_have_comments() -> None:
    x = cupy.zeros(4, "float32")
    kernel("x[threadIdx.x] = y;", "float* x,  // [N], a comment (of which nothing is read)\n float y")(
        (1,), (4,), (x, numpy.float32(3))
    )
    assert (x.get() == 3).all()


def test_what_is_no_cuda_is_an_error() -> None:
    with pytest.raises(cuda_emulator.CompileException):
        kernel("y[0] = nobody_knows;")


@pytest.mark.skipif(cuda_emulator.nvrtc() is None, reason="needs CUDA's own compiler: pip install '.[dev]'")
def test_what_only_a_compiler_of_c_knows_is_no_cuda() -> None:
    body = '#include <cuda_fp16.h>\nextern "C" __global__ void of_test(float* y) {{ y[0] = {}(2.0f); }}'
    kernel(body.format("sqrtf"))
    with pytest.raises(cuda_emulator.CompileException, match="std"):
        kernel(body.format("std::sqrt"))


def test_a_graph_is_what_was_captured_and_nothing_else_can_be() -> None:
    y, add = cupy.zeros(4, "float32"), kernel("y[threadIdx.x] += 1;")
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        add((1,), (4,), (y,))
        add((1,), (4,), (y,))
        with pytest.raises(RuntimeError, match="capturing"):
            y + 1
        graph = stream.end_capture()
    assert (y.get() == 0).all()
    graph.launch()
    graph.launch()
    assert (y.get() == 4).all()
