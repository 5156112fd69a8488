// Cross-entropy and its gradient, a block for each row of logits: see cross_entropy.py.

extern "C" __global__ void cross_entropy(
    const float* z, const long long* labels, const long long* count, float* dz, float* losses, long long width) {
    __shared__ float parts[32];
    long long row = blockIdx.x, label = labels[row];
    z += row * width, dz += row * width;
    if (label == IGNORE) {
        for (long long v = threadIdx.x; v < width; v += blockDim.x) dz[v] = 0;
        if (threadIdx.x == 0) losses[row] = 0;
        return;
    }
    // Each thread's own largest logit and sum, in one reading of the row; and then those of all.
    float top = LOWEST, total = 0;
    for (long long v = threadIdx.x; v < width; v += blockDim.x) {
        float x = z[v];
        if (x > top) total *= expf(top - x), top = x;
        total += expf(x - top);
    }
    float own = top;
    top = block_max(own, parts);
    total = block_sum(total * expf(own - top), parts);
    float share = (float)(1.0 / max(*count, 1ll));
    for (long long v = threadIdx.x; v < width; v += blockDim.x)
        dz[v] = expf(z[v] - top) * (share / total) - (v == label ? share : 0.0f);
    if (threadIdx.x == 0) losses[row] = (logf(total) - (z[label] - top)) * share;  // so, a small one keeps its digits
}
