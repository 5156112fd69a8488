// The gradients of attention in tiles: see attention.py, and tiles.cu for how a block does its part.

// A probability again, from its score and what `attention_dq` kept of its query: the largest score and 1 / the total,
// which is 0 for a query that sees no key. That weighs all keys alike.
__device__ __forceinline__ float again(float score, bool seen, float top, float inverse, int T) {
    return inverse == 0 ? 1.0f / T : seen ? expf(score - top) * inverse : 0.0f;
}

// dq; and for each query, into `kept [3, B, H, S]`: its largest score, 1 / its total, and Sum dcontext * context.
extern "C" __global__ void __launch_bounds__(32 * WARPS) attention_dq(
    const float* q, const float* k, const float* v, const float* alibi, const long long* mask, const float* dcontext,
    const float* context, float* dq, float* kept, int S, int T, float scale, long long q_batch, long long q_head,
    long long q_place, long long k_batch, long long k_head, long long k_place, long long alibi_batch,
    long long mask_batch) {
    __shared__ float4 rows[BLOCK][QUADS], drows[BLOCK][QUADS], tile[32][WIDTH], vtile[32][WIDTH];
    __shared__ float4 weights[WARPS][ROWS][8];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, h = blockIdx.y, b = blockIdx.z, H = gridDim.y, B = gridDim.z;
    int first = (gridDim.x - 1 - blockIdx.x) * BLOCK, own = first + warp * ROWS, past = T - S;
    int last = (past + min(first + BLOCK, S) - 1) / 32;
    long long head = (long long)b * H + h, numbers = (long long)B * H * S, side = (long long)H * DEPTH;
    q += b * q_batch + h * q_head, k += b * k_batch + h * k_head, v += b * k_batch + h * k_head;
    alibi += b * alibi_batch + (long long)h * T, mask += b * mask_batch;
    dcontext += b * S * side + h * DEPTH, context += b * S * side + h * DEPTH;
    fill<BLOCK>(rows, q, q_place, first, S, scale);
    fill<BLOCK>(drows, dcontext, side, first, S, 1.0f);
    __syncthreads();

    float top[ROWS], inverse[ROWS], along[ROWS], scores[ROWS], dscores[ROWS], sums[ROWS][COLUMNS];
    bool blind = false;  // whether there is a query that sees no key
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        top[r] = LOWEST, inverse[r] = 0, along[r] = 0;
        for (int d = lane; d < DEPTH && own + r < S; d += 32)
            along[r] += reinterpret_cast<float*>(drows[warp * ROWS + r])[d] * context[(own + r) * side + d];
        along[r] = warp_sum(along[r]);
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) sums[r][c] = 0;
    }
    for (int place = last; place >= 0; place--) {  // the totals, in `inverse` for now
        fill<32>(tile, k, k_place, 32 * place, T, 1.0f);
        __syncthreads();
        int key = 32 * place + lane;
        bool token = key < T && mask[key] == 1;
        float bias = token ? alibi[key] : 0.0f;
        products(rows + warp * ROWS, tile[lane], scores);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            bool seen = token && key <= past + own + r;
            float score = seen ? scores[r] + (bias - alibi[past + own + r]) : LOWEST;
            float new_top = fmaxf(top[r], warp_max(score));
            inverse[r] = inverse[r] * expf(top[r] - new_top) + (seen ? expf(score - new_top) : 0.0f);
            top[r] = new_top;
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float all = warp_sum(inverse[r]);
        inverse[r] = all == 0 ? 0.0f : 1.0f / all;
        blind |= all == 0 && own + r < S;
        if (lane || own + r >= S) continue;
        long long place = head * S + own + r;
        kept[place] = top[r], kept[numbers + place] = inverse[r], kept[2 * numbers + place] = along[r];
    }
    if (__syncthreads_or(blind)) last = (T - 1) / 32;  // it weighs later keys too
    for (int place = last; place >= 0; place--) {
        fill<32>(tile, k, k_place, 32 * place, T, 1.0f);
        fill<32>(vtile, v, k_place, 32 * place, T, 1.0f);
        __syncthreads();
        int key = 32 * place + lane;
        bool token = key < T && mask[key] == 1;
        float bias = token ? alibi[key] : 0.0f;
        products(rows + warp * ROWS, tile[lane], scores);
        products(drows + warp * ROWS, vtile[lane], dscores);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            bool seen = token && key <= past + own + r;
            float score = seen ? scores[r] + (bias - alibi[past + own + r]) : LOWEST;
            float p = key < T ? again(score, seen, top[r], inverse[r], T) : 0.0f;
            reinterpret_cast<float*>(weights[warp][r])[lane] = p * (dscores[r] - along[r]);
        }
        __syncwarp();
        add_tile(weights[warp], tile, sums);
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        if (own + r < S) store_row(dq + (head * S + own + r) * DEPTH, sums[r], scale);
}

// dk and dv: here the rows are keys and values, and the tiles are of queries and of dcontext.
extern "C" __global__ void __launch_bounds__(32 * WARPS) attention_dkv(
    const float* q, const float* k, const float* v, const float* alibi, const long long* mask, const float* dcontext,
    const float* kept, float* dk, float* dv, int S, int T, float scale, long long q_batch, long long q_head,
    long long q_place, long long k_batch, long long k_head, long long k_place, long long alibi_batch,
    long long mask_batch) {
    __shared__ float4 rows[BLOCK][QUADS], vrows[BLOCK][QUADS], tile[32][WIDTH], dtile[32][WIDTH];
    __shared__ float4 weights[WARPS][ROWS][8];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, h = blockIdx.y, b = blockIdx.z, H = gridDim.y, B = gridDim.z;
    int first = blockIdx.x * BLOCK, own = first + warp * ROWS, past = T - S;
    long long head = (long long)b * H + h, numbers = (long long)B * H * S, side = (long long)H * DEPTH;
    q += b * q_batch + h * q_head, k += b * k_batch + h * k_head, v += b * k_batch + h * k_head;
    alibi += b * alibi_batch + (long long)h * T, mask += b * mask_batch;
    dcontext += b * S * side + h * DEPTH, kept += head * S;
    fill<BLOCK>(rows, k, k_place, first, T, 1.0f);
    fill<BLOCK>(vrows, v, k_place, first, T, 1.0f);

    float scores[ROWS], dscores[ROWS], of_k[ROWS][COLUMNS], of_v[ROWS][COLUMNS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) of_k[r][c] = of_v[r][c] = 0;
    for (int place = 0; place <= (S - 1) / 32; place++) {
        int query = 32 * place + lane;
        bool there = query < S;
        float top = there ? kept[query] : 0.0f, inverse = there ? kept[numbers + query] : 0.0f;
        float along = there ? kept[2 * numbers + query] : 0.0f;
        if (!__syncthreads_or(there && (past + query >= first || inverse == 0))) continue;  // none sees these keys
        fill<32>(tile, q, q_place, 32 * place, S, scale);
        fill<32>(dtile, dcontext, side, 32 * place, S, 1.0f);
        __syncthreads();
        products(rows + warp * ROWS, tile[lane], scores);
        products(vrows + warp * ROWS, dtile[lane], dscores);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int key = own + r;
            bool seen = key < T && key <= past + query && mask[key] == 1;
            float bias = seen ? alibi[key] - alibi[past + query] : 0.0f;
            scores[r] = there ? again(scores[r] + bias, seen, top, inverse, T) : 0.0f;
            dscores[r] = scores[r] * (dscores[r] - along);
            reinterpret_cast<float*>(weights[warp][r])[lane] = scores[r];
        }
        __syncwarp();
        add_tile(weights[warp], dtile, of_v);
        __syncwarp();
#pragma unroll
        for (int r = 0; r < ROWS; r++) reinterpret_cast<float*>(weights[warp][r])[lane] = dscores[r];
        __syncwarp();
        add_tile(weights[warp], tile, of_k);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (own + r >= T) continue;
        store_row(dk + (head * T + own + r) * DEPTH, of_k[r], 1.0f);
        store_row(dv + (head * T + own + r) * DEPTH, of_v[r], 1.0f);
    }
}
