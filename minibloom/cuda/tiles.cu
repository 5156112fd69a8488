// What the kernels of attention share: rows, tiles, and the products of both; see attention.py.
//
// A block has BLOCK rows in shared memory, of queries (or, for the gradients of keys and values, of keys), ROWS for
// each warp, and goes over tiles of 32 of the others. Of the products of rows and tile, a thread has those of one row
// of the tile; of the sums over the tile, those of one column in 32.
#define BLOCK (ROWS * WARPS)
#define QUADS ((DEPTH + 3) / 4)
#define COLUMNS ((DEPTH + 31) / 32)
#define WIDTH (QUADS | 1)  // of a tile's rows: odd, so that threads which read a row each meet in no bank of the memory

// Rows `first` to `end` of a matrix whose rows lie `stride` numbers apart, times `factor`; behind them zeros.
template <int COUNT, int ROW>
__device__ __forceinline__ void fill(
    float4 (*place)[ROW], const float* source, long long stride, int first, int end, float factor) {
    for (int i = threadIdx.x; i < COUNT * 4 * QUADS; i += 32 * WARPS) {
        int row = i / (4 * QUADS), d = i % (4 * QUADS);
        bool there = first + row < end && d < DEPTH;
        reinterpret_cast<float*>(place[row])[d] = there ? source[(first + row) * stride + d] * factor : 0.0f;
    }
}

// The products of this warp's rows with this thread's row of a tile.
__device__ __forceinline__ void products(const float4 (*rows)[QUADS], const float4* own, float* out) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) out[r] = 0;
#pragma unroll 4
    for (int i = 0; i < QUADS; i++) {
        float4 b = own[i];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float4 a = rows[r][i];
            out[r] += (a.x * b.x + a.y * b.y) + (a.z * b.z + a.w * b.w);  // rounded less than one by one
        }
    }
}

// Onto each of this warp's rows, the rows of a tile times `weights`: this thread's columns of them.
__device__ __forceinline__ void add_tile(
    const float4 (*weights)[8], const float4 (*tile)[WIDTH], float (*sums)[COLUMNS]) {
    int lane = threadIdx.x % 32;
    for (int j = 0; j < 8; j++) {
        float x[4][COLUMNS];
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                int column = lane + 32 * c;
                x[i][c] = column < DEPTH ? reinterpret_cast<const float*>(tile[4 * j + i])[column] : 0.0f;
            }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float4 w = weights[r][j];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                sums[r][c] += w.x * x[0][c];
                sums[r][c] += w.y * x[1][c];
                sums[r][c] += w.z * x[2][c];
                sums[r][c] += w.w * x[3][c];
            }
        }
    }
}

__device__ __forceinline__ void store_row(float* place, const float* sums, float factor) {
#pragma unroll
    for (int c = 0; c < COLUMNS; c++)
        if (threadIdx.x % 32 + 32 * c < DEPTH) place[threadIdx.x % 32 + 32 * c] = sums[c] * factor;
}
