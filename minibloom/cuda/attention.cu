// Attention in tiles: see attention.py, and tiles.cu for how a block does its part.

// What bounds the tokens up to the end of each tile: the largest |k| and the largest bias. A block for each head.
extern "C" __global__ void farthest(
    const float* k, const float* alibi, const long long* mask, float* far, int T, long long k_batch, long long k_head,
    long long k_place, long long alibi_batch, long long mask_batch) {
    int lane = threadIdx.x % 32, h = blockIdx.x, b = blockIdx.y, tiles = (T + 31) / 32;
    k += b * k_batch + h * k_head, alibi += b * alibi_batch + (long long)h * T, mask += b * mask_batch;
    far += ((long long)b * gridDim.x + h) * tiles * 2;
    for (int tile = threadIdx.x / 32; tile < tiles; tile += blockDim.x / 32) {
        float longest = 0, nearest = LOWEST;
        for (int key = 32 * tile; key < min(32 * tile + 32, T); key++) {
            if (mask[key] != 1) continue;
            float square = 0;
            for (int d = lane; d < DEPTH; d += 32) square += k[key * k_place + d] * k[key * k_place + d];
            longest = fmaxf(longest, warp_sum(square)), nearest = fmaxf(nearest, alibi[key]);
        }
        if (lane == 0) far[2 * tile] = sqrtf(longest), far[2 * tile + 1] = nearest;
    }
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 2; i < 2 * tiles; i++) far[i] = fmaxf(far[i], far[i - 2]);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) attention(
    const float* q, const float* k, const float* v, const float* alibi, const long long* mask, const float* far,
    float* out, int S, int T, float scale, long long q_batch, long long q_head, long long q_place, long long k_batch,
    long long k_head, long long k_place, long long alibi_batch, long long mask_batch) {
    __shared__ float4 rows[BLOCK][QUADS], tile[32][WIDTH], weights[WARPS][ROWS][8];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, h = blockIdx.y, b = blockIdx.z, H = gridDim.y;
    int first = (gridDim.x - 1 - blockIdx.x) * BLOCK;  // the last queries see most: they begin
    int own = first + warp * ROWS, past = T - S, last = (past + min(first + BLOCK, S) - 1) / 32;
    q += b * q_batch + h * q_head, k += b * k_batch + h * k_head, v += b * k_batch + h * k_head;
    alibi += b * alibi_batch + (long long)h * T, mask += b * mask_batch;
    far += ((long long)b * H + h) * ((T + 31) / 32) * 2;
    fill<BLOCK>(rows, q, q_place, first, S, scale);
    __syncthreads();

    float top[ROWS], total[ROWS], size[ROWS], sums[ROWS][COLUMNS];  // each thread has its own part of `total`
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float square = 0;
        for (int d = lane; d < DEPTH; d += 32) {
            float x = reinterpret_cast<float*>(rows[warp * ROWS + r])[d];
            square += x * x;
        }
        top[r] = LOWEST, total[r] = 0, size[r] = sqrtf(warp_sum(square)) * 1.001f;  // the thousandth: for its rounding
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) sums[r][c] = 0;
    }
    for (int place = last; place >= 0; place--) {
        if (place < last) {  // the share of all keys up to here, for each query
            float longest = far[2 * place], nearest = far[2 * place + 1], count = logf(32.0f * (place + 1));
            bool nothing = true;
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                nothing &= own + r >= S || nearest == LOWEST ||
                           size[r] * longest + (nearest - alibi[past + own + r]) + count - top[r] < LEAST;
            if (__syncthreads_and(nothing)) break;
        }
        fill<32>(tile, k, k_place, 32 * place, T, 1.0f);
        __syncthreads();
        int key = 32 * place + lane;
        bool token = key < T && mask[key] == 1;
        float bias = token ? alibi[key] : 0.0f, scores[ROWS];
        products(rows + warp * ROWS, tile[lane], scores);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            bool seen = token && key <= past + own + r;
            float score = seen ? scores[r] + (bias - alibi[past + own + r]) : LOWEST;
            float new_top = fmaxf(top[r], warp_max(score));
            float weight = seen ? expf(score - new_top) : 0.0f, shrink = expf(top[r] - new_top);
            total[r] = total[r] * shrink + weight, top[r] = new_top;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) sums[r][c] *= shrink;
            reinterpret_cast<float*>(weights[warp][r])[lane] = weight;
        }
        __syncthreads();
        fill<32>(tile, v, k_place, 32 * place, T, 1.0f);
        __syncthreads();
        add_tile(weights[warp], tile, sums);  // what waits for it to end stands at the start of the next tile
    }
    float mean[COLUMNS];  // of all values: what a query of padding gives, which sees none. Made when there is one
    bool made = false;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float all = warp_sum(total[r]);
        float* place = out + (((long long)b * S + own + r) * H + h) * DEPTH;
        if (own + r >= S) continue;
        if (all != 0) {
            store_row(place, sums[r], 1.0f / all);
            continue;
        }
        if (!made)
            for (int c = 0; c < COLUMNS; c++) {
                mean[c] = 0;
                if (lane + 32 * c < DEPTH)
                    for (int key = 0; key < T; key++) mean[c] += v[key * k_place + lane + 32 * c];
            }
        made = true;
        store_row(place, mean, 1.0f / T);
    }
}
