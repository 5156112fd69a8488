// CUDA's language on a CPU, as far as minibloom's kernels speak it: see cuda_emulator.py.
//
// Each thread of a block is a fiber. It runs until it waits for others (a barrier, or an exchange within its warp), and
// then another one runs, in an order that has nothing to do with their numbers, as blocks do too: a kernel that leans on
// an order goes wrong here. Shared memory is NaN when a block begins. A barrier that some threads of a block never
// reach, which hangs a GPU or leaves its result to chance, is an error.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __restrict__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))

struct dim3 {
    unsigned x, y, z;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

// --- fibers ---

namespace emulator {
enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };
struct Fiber {  // a thread of one block, and then of the next
    std::vector<char> stack;
    jmp_buf place;
    State state;
};
static std::vector<Fiber> fibers;
static jmp_buf scheduler;
static unsigned current;
static uint64_t slots[1024];  // what threads hand each other
static void (*kernel)(void**);
static void** arguments;
static const char* failure;
__attribute__((section("shared_memory"), used)) static char nothing_shared[16];  // so that the section is there
extern "C" char __start_shared_memory[], __stop_shared_memory[];

static void wait(State state) {  // by jumps: contexts ask the system at each switch, which takes 10 times as long
    fibers[current].state = state;
    if (!_setjmp(fibers[current].place)) _longjmp(scheduler, 1);
}

static void run_fiber() {
    while (true) {
        kernel(arguments);
        wait(DONE);
    }
}

static __attribute__((noinline)) void resume(Fiber& fiber) {
    if (_setjmp(scheduler)) return;
    if (!fiber.stack.empty()) _longjmp(fiber.place, 1);
    fiber.stack.resize(1 << 16);
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.data();
    context.uc_stack.ss_size = fiber.stack.size();
    context.uc_link = nullptr;
    makecontext(&context, run_fiber, 0);
    setcontext(&context);
}

static unsigned draw(unsigned below) {
    static uint64_t state = 88172645463325252ull;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state % below;
}

static void shuffle(std::vector<unsigned>& order) {
    for (unsigned i = order.size(); i > 1; i--) std::swap(order[i - 1], order[draw(i)]);
}

static void run_block(unsigned threads) {
    memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
    if (fibers.size() < threads) fibers.resize(threads);
    std::vector<unsigned> order(threads);
    for (unsigned i = 0; i < threads; i++) {
        order[i] = i;
        fibers[i].state = READY;
    }
    unsigned held = 0;  // warps that rest until the others can do no more without them
    bool ran = false;
    while (!failure) {
        shuffle(order);
        if (!ran) held = draw(2) ? 0 : draw(~0u);
        ran = false;
        for (unsigned i : order) {
            if (fibers[i].state != READY || held >> i / 32 & 1) continue;
            current = i, ran = true;
            threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
            resume(fibers[i]);
            if (failure) return;
        }
        unsigned done = 0, at_block = 0, ready = 0;
        bool released = false;
        for (unsigned first = 0; first < threads; first += 32) {
            unsigned end = std::min(first + 32, threads), at_warp = 0;
            for (unsigned i = first; i < end; i++) {
                done += fibers[i].state == DONE;
                ready += fibers[i].state == READY;
                at_block += fibers[i].state == AT_BLOCK_BARRIER;
                at_warp += fibers[i].state == AT_WARP_BARRIER;
            }
            if (at_warp == end - first) {
                for (unsigned i = first; i < end; i++) fibers[i].state = READY;
                released = true;
            } else if (at_warp) {
                failure = "threads of one warp wait for others that do not come to the same exchange";
            }
        }
        if (failure || done == threads) return;
        if (released || ready) continue;
        if (at_block < threads) {
            failure = "some threads of a block have ended while others wait in __syncthreads()";
            return;
        }
        for (unsigned i = 0; i < threads; i++) fibers[i].state = READY;
    }
}

extern "C" const char* emulator_launch(void (*function)(void**), void** given, const unsigned* grid, const unsigned* block) {
    kernel = function, arguments = given, failure = nullptr;
    gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block[0], block[1], block[2]};
    std::vector<unsigned> order(grid[0] * grid[1] * grid[2]);
    for (unsigned i = 0; i < order.size(); i++) order[i] = i;
    shuffle(order);
    for (unsigned i : order) {
        blockIdx = {i % grid[0], i / grid[0] % grid[1], i / (grid[0] * grid[1])};
        run_block(block[0] * block[1] * block[2]);
        if (failure) {
            fibers.clear();  // which stand in the middle of the kernel
            return failure;
        }
    }
    return nullptr;
}
}  // namespace emulator

// --- what threads do together ---

inline void __syncthreads() { emulator::wait(emulator::AT_BLOCK_BARRIER); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulator::wait(emulator::AT_WARP_BARRIER); }
// A barrier at which all threads of the block learn how many of them said yes.
inline int __syncthreads_count(int yes) {
    emulator::slots[emulator::current] = yes != 0;
    __syncthreads();
    int count = 0;
    for (unsigned i = 0; i < blockDim.x * blockDim.y * blockDim.z; i++) count += emulator::slots[i];
    __syncthreads();
    return count;
}
inline int __syncthreads_or(int yes) { return __syncthreads_count(yes) > 0; }
inline int __syncthreads_and(int yes) { return __syncthreads_count(!yes) == 0; }

template <class T>
T exchange(unsigned mask, T value, unsigned lane, bool own) {
    static_assert(sizeof(T) <= 8, "too large to hand over");
    unsigned me = emulator::current;
    if (mask != 0xffffffffu) emulator::failure = "an exchange of a part of a warp: give the mask 0xffffffff";
    memcpy(&emulator::slots[me], &value, sizeof(T));
    __syncwarp();
    unsigned from = own ? me : me / 32 * 32 + lane;
    if (from >= blockDim.x * blockDim.y * blockDim.z) emulator::failure = "an exchange with a thread that is not there";
    T result;
    memcpy(&result, &emulator::slots[from], sizeof(T));
    __syncwarp();
    return result;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
    return exchange(mask, value, lane & 31, false);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return exchange(mask, value, (emulator::current & 31) ^ bits, false);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
    unsigned lane = (emulator::current & 31) + by;
    return exchange(mask, value, lane, lane > 31);
}

template <class T>
T atomicAdd(T* place, T value) {
    T before = *place;
    *place += value;
    return before;
}
inline void __threadfence() {}

// --- numbers ---

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }
template <class T>
T __ldg(const T* place) {
    return *place;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
template <class T, class U>
auto min(T a, U b) -> decltype(a + b) {
    return a < b ? a : b;
}
template <class T, class U>
auto max(T a, U b) -> decltype(a + b) {
    return a > b ? a : b;
}

struct __half {
    _Float16 value;
};
inline float __half2float(__half x) { return x.value; }
inline __half __float2half(float x) { return {(_Float16)x}; }

struct __nv_bfloat16 {
    unsigned short bits;
};
inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }
inline __nv_bfloat16 __float2bfloat16(float x) {
    unsigned bits = __float_as_uint(x);
    return {(unsigned short)(x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
