// The place of the largest number of each row, the first of equals; NaN counts as the largest. See likeliest.py.
//
// Each row is cut into pieces, a block for each. The last block of a row to end compares what all have found.

struct Found {
    float value;
    int place;
};

__device__ bool before(Found a, Found b) {  // whether a is to be chosen, not b
    bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan != b_nan) return a_nan;
    return a.value > b.value || ((a.value == b.value || a_nan) && a.place < b.place);
}

// What is to be chosen of what all threads of a block have found. `found` has room for one of each warp; between two
// calls with the same, there must be a barrier.
__device__ Found of_block(Found mine, Found* found) {
    for (int warps = 0; warps < 2; warps++) {
        for (int bits = 16; bits; bits /= 2) {
            Found other = {__shfl_xor_sync(0xffffffff, mine.value, bits), __shfl_xor_sync(0xffffffff, mine.place, bits)};
            if (before(other, mine)) mine = other;
        }
        if (warps) break;
        if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = mine;
        __syncthreads();
        mine = found[threadIdx.x % (THREADS / 32)];
    }
    return mine;
}

extern "C" __global__ void __launch_bounds__(THREADS) likeliest(
    const float* __restrict__ logits,  // [B, V]
    float* values, int* places,        // [B, pieces]: what each block has found
    int* arrived,                      // [B], all 0
    int* lengths,                      // [B]
    long long* tokens,                 // [T, B]
    int V) {
    __shared__ Found found[THREADS / 32];
    __shared__ bool last;
    int piece = blockIdx.x, pieces = gridDim.x, b = blockIdx.y, width = (V + pieces - 1) / pieces;
    const float* row = logits + (long long)b * V;
    Found mine = {-INFINITY, V};
    for (int i = piece * width + threadIdx.x; i < min(V, (piece + 1) * width); i += THREADS) {
        Found one = {row[i], i};
        if (before(one, mine)) mine = one;
    }
    mine = of_block(mine, found);
    values += b * pieces, places += b * pieces;
    if (threadIdx.x == 0) {
        values[piece] = mine.value, places[piece] = mine.place;
        __threadfence();
        last = atomicAdd(&arrived[b], 1) == pieces - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    mine = {-INFINITY, V};
    for (int i = threadIdx.x; i < pieces; i += THREADS) {
        Found one = {values[i], places[i]};
        if (before(one, mine)) mine = one;
    }
    mine = of_block(mine, found);
    if (threadIdx.x == 0) {
        arrived[b] = 0;  // for the next launch
        tokens[(long long)++lengths[b] * gridDim.y + b] = mine.place;
    }
}
