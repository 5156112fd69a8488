// Attention of one new token a row over a cache, with ALiBi. See one_query.py.
//
// Each row and head has `splits` blocks of WARPS warps, which share its keys, 32 of them (a tile) at a time. A lane takes
// a key for the score, and every 32nd number of a value for the sum. How many keys there are is read here, as the grid
// is fixed once it is captured: blocks that get none leave. The last of the others to end joins what all have summed up.
#define EACH ((DIM + 31) / 32)  // numbers of a value that a lane sums up
#define PART (DIM + 2)          // what a sum consists of: DIM numbers, their total weight, and the score it is relative to

#define LEAST (-17.328680f)     // ln(2^-23 / 4): of a share that may not be left out, see tiled_attention.py

#if DIM % 4 == 0
#define WIDE 4
#else
#define WIDE 1
#endif
struct alignas(4 * WIDE) Pack {
    float at[WIDE];
};

// Number d of the sum of `count` parts, and their total weight, as those of one part that is relative to `top`.
__device__ void join(const float* parts, int count, int d, float& out, float& total, float& top) {
    out = total = 0, top = -INFINITY;
    for (int i = 0; i < count; i++) top = fmaxf(top, parts[i * PART + DIM + 1]);
    for (int i = 0; i < count; i++) {
        float shrink = expf(parts[i * PART + DIM + 1] - top);
        out += shrink * parts[i * PART + d];
        total += shrink * parts[i * PART + DIM];
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) one_query(
    const float* __restrict__ fused,   // [B, H, 3, DIM]: query, key and value of the new token
    float* keys, float* values,        // [B, H, room, DIM]
    const int* __restrict__ places,    // [B, room]: how many tokens stand before each, -1 for padding
    const int* __restrict__ lengths,   // [B]: positions that the cache holds
    const float* __restrict__ slopes,  // [H]
    float* longest,                    // [B, H]: no key in the cache is longer
    float* parts,                      // [B, H, splits, PART]
    int* arrived,                      // [B, H], all 0
    float* context,                    // [B, H, DIM]
    int room) {
    __shared__ float query[DIM], own[WARPS * PART];
    __shared__ bool last;
    int split = blockIdx.x, splits = gridDim.x, heads = gridDim.y, b = blockIdx.z;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = threadIdx.x;
    long long head = (long long)b * heads + blockIdx.y;
    const float *q = fused + head * 3 * DIM, *k = q + DIM, *v = k + DIM;
    const float scale = 1.0f / sqrtf((float)DIM), slope = slopes[blockIdx.y];
    const int length = lengths[b], place = places[(long long)b * room + length];
    places += (long long)b * room, keys += head * room * DIM, values += head * room * DIM;

    float qk = 0, qq = 0, kk = 0;
    for (int i = lane; i < DIM; i += 32) qk += q[i] * scale * k[i], qq += q[i] * q[i], kk += k[i] * k[i];
    if (d < DIM) query[d] = q[d] * scale;
    __syncthreads();
    // Scores are relative to the new token's place: it has the score `self`, with no bias. Tokens before `nearest` are
    // left out. Whether `longest` has been changed below already makes no difference.
    const float self = warp_sum(qk), length_of_k = sqrtf(warp_sum(kk));
    const float most = fmaxf(longest[head], length_of_k), reach = 1.001f * scale * sqrtf(warp_sum(qq)) * most;
    const float nearest = place - (reach - self - LEAST - logf(-expm1f(-slope))) / slope;
    const int first = nearest > 0 ? (int)nearest / 32 : 0;  // the tile: no token's place is above its position
    const int tiles = (length + 31) / 32 - first;
    const int active = min(splits, max(1, (tiles + WARPS - 1) / WARPS));
    if (split >= active) return;

    float top = self, total = 0, out[EACH] = {};
    if (split == 0 && warp == 0) {
        total = 1;
        for (int c = 0; c < EACH; c++) {
            int i = lane + 32 * c;
            if (i >= DIM) break;
            out[c] = v[i];
            keys[(long long)length * DIM + i] = k[i];
            values[(long long)length * DIM + i] = v[i];
        }
        if (lane == 0) longest[head] = most;
    }
    for (int tile = first + split * WARPS + warp; tile * 32 < length; tile += active * WARPS) {
        int j = tile * 32 + lane, at = j < length ? places[j] : -1;
        float score = -INFINITY;
        if (at >= 0 && at >= nearest) {
            Pack sums = {};  // that do not wait for each other
            for (int i = 0; i < DIM; i += WIDE) {
                Pack key = *(const Pack*)(keys + (long long)j * DIM + i);
                for (int n = 0; n < WIDE; n++) sums.at[n] += query[i + n] * key.at[n];
            }
            score = slope * (at - place);
            for (int n = 0; n < WIDE; n++) score += sums.at[n];
        }
        float best = warp_max(score);
        if (best == -INFINITY) continue;  // padding, or too far
        float new_top = fmaxf(top, best), shrink = expf(top - new_top), weight = expf(score - new_top);
        top = new_top, total = total * shrink + warp_sum(weight);
        for (int c = 0; c < EACH; c++) out[c] *= shrink;
        int there = min(32, length - tile * 32);
        const float* value = values + (long long)tile * 32 * DIM + lane;
        for (int i = 0; i < there; i++) {
            float share = __shfl_sync(0xffffffff, weight, i);
#pragma unroll
            for (int c = 0; c < EACH; c++)
                if (lane + 32 * c < DIM) out[c] += share * value[i * DIM + 32 * c];
        }
    }

    for (int c = 0; c < EACH; c++)
        if (lane + 32 * c < DIM) own[warp * PART + lane + 32 * c] = out[c];
    if (lane == 0) own[warp * PART + DIM] = total, own[warp * PART + DIM + 1] = top;
    __syncthreads();
    float sum = 0;
    if (d < DIM) join(own, WARPS, d, sum, total, top);
    if (active > 1) {
        parts += head * splits * PART;
        if (d < DIM) parts[split * PART + d] = sum;
        if (d == 0) parts[split * PART + DIM] = total, parts[split * PART + DIM + 1] = top;
        __threadfence();
        __syncthreads();
        if (d == 0) last = atomicAdd(&arrived[head], 1) == active - 1;
        __syncthreads();
        if (!last) return;
        __threadfence();
        if (d < DIM) join(parts, active, d, sum, total, top);
        if (d == 0) arrived[head] = 0;  // for the next launch
    }
    if (d < DIM) context[head * DIM + d] = sum / total;
}
