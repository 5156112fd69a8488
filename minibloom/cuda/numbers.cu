// What all kernels share: numbers in 16 bits, and sums over a warp and over a block.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#ifndef INFINITY  // CuPy compiles without C's headers
#define INFINITY __int_as_float(0x7f800000)
#endif

// Kernels compute in float32; what is kept in 16 bits is widened when it is read, and rounded when it is written.
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void store(float* place, float x) { *place = x; }
__device__ __forceinline__ void store(__half* place, float x) { *place = __float2half(x); }
__device__ __forceinline__ void store(__nv_bfloat16* place, float x) { *place = __float2bfloat16(x); }

// The sum of x, and the largest x, over the 32 threads of a warp; each of them is given it.
__device__ __forceinline__ float warp_sum(float x) {
    for (int bits = 16; bits; bits /= 2) x += __shfl_xor_sync(0xffffffff, x, bits);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
    for (int bits = 16; bits; bits /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, bits));
    return x;
}

// The same over a block of whole warps, all of whose threads must call it. `parts` is shared memory for 32 numbers.
__device__ __forceinline__ float block_sum(float x, float* parts) {
    int warps = blockDim.x / 32, lane = threadIdx.x % 32;
    x = warp_sum(x);
    __syncthreads();  // those who still read what was left in `parts` by a sum before
    if (lane == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(lane < warps ? parts[lane] : 0.0f);
}
__device__ __forceinline__ float block_max(float x, float* parts) {
    int warps = blockDim.x / 32, lane = threadIdx.x % 32;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_max(lane < warps ? parts[lane] : -INFINITY);
}
