// Layer normalisation, a warp for each row: see layer_norm.py.
// A thread takes the same numbers of its row each time, so what it reads again is what it wrote itself.

// The mean of a row, and 1 / sqrt(variance + eps).
__device__ __forceinline__ float2 mean_and_rstd(const float* x, int width, float eps) {
    float sum = 0, squares = 0;
    for (int i = threadIdx.x % 32; i < width; i += 32) sum += x[i];
    float mean = warp_sum(sum) / width;
    for (int i = threadIdx.x % 32; i < width; i += 32) squares += (x[i] - mean) * (x[i] - mean);
    return make_float2(mean, 1.0f / sqrtf(warp_sum(squares) / width + eps));
}

// The row of this warp.
__device__ __forceinline__ long long own_row() {
    return (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
}

__device__ __forceinline__ void norm_row(
    const float* x, const float* weight, const float* bias, float* y, int width, float eps) {
    float2 found = mean_and_rstd(x, width, eps);
    for (int i = threadIdx.x % 32; i < width; i += 32) y[i] = (x[i] - found.x) * found.y * weight[i] + bias[i];
}

extern "C" __global__ void layer_norm(
    const float* x, const float* weight, const float* bias, float* y, long long rows, int width, float eps) {
    long long row = own_row();
    if (row < rows) norm_row(x + row * width, weight, bias, y + row * width, width, eps);
}

extern "C" __global__ void add_and_norm(
    const float* x, const float* update, const float* weight, const float* bias, float* sum, float* y,
    long long rows, int width, float eps) {
    long long row = own_row(), start = row * width;
    if (row >= rows) return;
    for (int i = threadIdx.x % 32; i < width; i += 32) sum[start + i] = x[start + i] + update[start + i];
    norm_row(sum + start, weight, bias, y + start, width, eps);
}

// Means and rstds are kept for `layer_norm_sums`.
extern "C" __global__ void layer_norm_backward(
    const float* dy, const float* x, const float* weight, float* dx, float* means, float* rstds,
    long long rows, int width, float eps) {
    long long row = own_row();
    if (row >= rows) return;
    dy += row * width, x += row * width, dx += row * width;
    float2 found = mean_and_rstd(x, width, eps);
    float sum = 0, along = 0;  // of g, and of g * n
    for (int i = threadIdx.x % 32; i < width; i += 32) {
        float g = dy[i] * weight[i];
        sum += g, along += g * (x[i] - found.x) * found.y;
    }
    sum = warp_sum(sum) / width, along = warp_sum(along) / width;
    for (int i = threadIdx.x % 32; i < width; i += 32) {
        float n = (x[i] - found.x) * found.y;
        dx[i] = (dy[i] * weight[i] - sum - n * along) * found.y;
    }
    if (threadIdx.x % 32 == 0) means[row] = found.x, rstds[row] = found.y;
}

// Of each column, the sums over HEIGHT rows of dy * n and of dy: `sums [2, blocks, width]`.
extern "C" __global__ void layer_norm_sums(
    const float* dy, const float* x, const float* means, const float* rstds, float* sums, long long rows, int width) {
    int column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= width) return;
    long long row = (long long)blockIdx.x * HEIGHT, end = min(row + HEIGHT, rows);
    float dweight = 0, dbias = 0;
    for (; row < end; row++) {
        float d = dy[row * width + column];
        dweight += d * (x[row * width + column] - means[row]) * rstds[row];
        dbias += d;
    }
    sums[(long long)blockIdx.x * width + column] = dweight;
    sums[((long long)gridDim.x + blockIdx.x) * width + column] = dbias;
}
