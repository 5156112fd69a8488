// What is done to all parameters, or all gradients, in one launch: see adamw.py.
// `table` has a row for each array, with what the kernel needs to know of it; a block does CHUNK numbers of one array.

struct Piece {
    const unsigned long long* row;
    long long start, end;  // numbers of its array
};

// What this block does: column 0 of the table has the size of an array, column 1 the chunks up to its end.
__device__ __forceinline__ Piece own_piece(const unsigned long long* table, int arrays, int columns) {
    int low = 0, high = arrays - 1;
    while (low < high) {  // the first array whose chunks end behind this block's
        int middle = (low + high) / 2;
        if (table[(long long)middle * columns + 1] > blockIdx.x) high = middle;
        else low = middle + 1;
    }
    const unsigned long long* row = table + (long long)low * columns;
    long long before = low ? row[1 - columns] : 0, size = row[0], start = (blockIdx.x - before) * CHUNK;
    return {row, start, min(start + CHUNK, size)};
}

extern "C" __global__ void adamw(
    const unsigned long long* table, int arrays, float beta1, float rest1, float beta2, float rest2, float v_scale,
    float eps, float rate, float decay) {
    Piece piece = own_piece(table, arrays, 7);
    float *p = (float*)piece.row[2], *m = (float*)piece.row[4], *v = (float*)piece.row[5];
    const float* gradients = (const float*)piece.row[3];
    float kept = piece.row[6] ? decay : 1.0f;
    for (long long i = piece.start + threadIdx.x; i < piece.end; i += blockDim.x) {
        float g = gradients[i], mean = m[i] * beta1 + rest1 * g, square = v[i] * beta2 + rest2 * (g * g);
        m[i] = mean, v[i] = square;
        p[i] = p[i] * kept - mean / (sqrtf(square * v_scale) + eps) * rate;
    }
}

// The sum of the squares of each block's numbers.
extern "C" __global__ void squares(const unsigned long long* table, int arrays, float* sums) {
    __shared__ float parts[32];
    Piece piece = own_piece(table, arrays, 3);
    const float* x = (const float*)piece.row[2];
    float sum = 0;
    for (long long i = piece.start + threadIdx.x; i < piece.end; i += blockDim.x) sum += x[i] * x[i];
    sum = block_sum(sum, parts);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

extern "C" __global__ void scale(const unsigned long long* table, int arrays, float factor) {
    Piece piece = own_piece(table, arrays, 3);
    float* x = (float*)piece.row[2];
    for (long long i = piece.start + threadIdx.x; i < piece.end; i += blockDim.x) x[i] *= factor;
}
