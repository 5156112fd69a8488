// Which token of each row a number u falls on, in [0, 1) cut into the tokens' probabilities. See pick.py.
//
// Each row is cut into pieces, a block for each, and each piece into runs, a thread for each. The last block of a row
// to end finds the piece that u falls on, and in it the run, and there the token. Everything is summed up in float64.

// Into place t of `sums`, the sum of all x up to thread t's: one after another, so that none is below the one before.
__device__ void add_up(double x, double* sums) {
    __syncthreads();
    sums[threadIdx.x] = x;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int i = 1; i < THREADS; i++) sums[i] += sums[i - 1];
    __syncthreads();
}

// Whether `place`, of all that was added up, falls on this thread's part: on one and no other, unless there is NaN.
__device__ bool falls_here(double place, const double* sums) {
    int t = threadIdx.x;
    place = fmin(place, sums[THREADS - 1] * (1 - 0x1p-52));  // rounding may bring it to the end
    return sums[t] > place && (t == 0 || sums[t - 1] <= place);
}

extern "C" __global__ void __launch_bounds__(THREADS) pick(
    const float* __restrict__ logits,  // [B, V]
    const double* __restrict__ u,      // [B]
    double* sums, float* tops,         // [B, pieces]: of each, relative to its largest logit; and that
    int* arrived,                      // [B], all 0
    long long* chosen,                 // [B]
    int V) {
    __shared__ double added[THREADS], place;
    __shared__ float parts[32];
    __shared__ int part;
    __shared__ bool last;
    int b = blockIdx.y, t = threadIdx.x, pieces = gridDim.x, piece = blockIdx.x;
    int width = (V + pieces - 1) / pieces, run = (width + THREADS - 1) / THREADS;
    const float* row = logits + (long long)b * V;
    sums += b * pieces, tops += b * pieces;

    int begin = piece * width + t * run, end = min(min(begin + run, (piece + 1) * width), V);
    float top = -INFINITY;
    for (int i = begin; i < end; i++) top = fmaxf(top, row[i]);
    top = block_max(top, parts);
    double sum = 0;
    for (int i = begin; i < end; i++) sum += row[i] == -INFINITY ? 0 : exp((double)row[i] - top);
    add_up(sum, added);
    if (t == 0) {
        sums[piece] = added[THREADS - 1], tops[piece] = top;
        __threadfence();
        last = atomicAdd(&arrived[b], 1) == pieces - 1;
    }
    __syncthreads();
    if (!last) return;

    __threadfence();
    top = block_max(t < pieces ? tops[t] : -INFINITY, parts);
    double scale = t < pieces ? exp((double)tops[t] - top) : 0;
    add_up(t < pieces ? sums[t] * scale : 0, added);
    if (t == 0) part = 0, place = 0, chosen[b] = 0;  // for rows of NaN
    __syncthreads();
    double target = u[b] * added[THREADS - 1];
    if (falls_here(target, added)) part = t, place = (target - (t ? added[t - 1] : 0)) / scale;
    __syncthreads();

    begin = part * width + t * run, end = min(min(begin + run, (part + 1) * width), V), top = tops[part];
    sum = 0;
    for (int i = begin; i < end; i++) sum += row[i] == -INFINITY ? 0 : exp((double)row[i] - top);
    add_up(sum, added);
    if (!falls_here(place, added)) return;
    sum = t ? added[t - 1] : 0;
    for (int i = begin; i < end && sum <= place; i++) {
        if (row[i] == -INFINITY) continue;
        sum += exp((double)row[i] - top);
        chosen[b] = i;
    }
}
