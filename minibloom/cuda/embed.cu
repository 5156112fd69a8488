// Row b of x: the layer norm of the table's row tokens[lengths[b]][b]. A block for each. See embed.py.
extern "C" __global__ void embed(
    const long long* __restrict__ tokens,  // [T, B]
    const int* __restrict__ lengths,       // [B]
    const WEIGHT* __restrict__ table,      // [V, E]
    const float* __restrict__ norm_weight, const float* __restrict__ norm_bias,  // [E]
    float* __restrict__ x,                                                       // [B, E]
    int E, float eps) {
    __shared__ float parts[32];
    int b = blockIdx.x;
    const WEIGHT* row = table + tokens[(long long)lengths[b] * gridDim.x + b] * E;
    float sum = 0, squares = 0;
    for (int i = threadIdx.x; i < E; i += blockDim.x) sum += widen(row[i]);
    float mean = block_sum(sum, parts) / E;
    for (int i = threadIdx.x; i < E; i += blockDim.x) squares += (widen(row[i]) - mean) * (widen(row[i]) - mean);
    float rstd = 1.0f / sqrtf(block_sum(squares, parts) / E + eps);
    for (int i = threadIdx.x; i < E; i += blockDim.x)
        x[(long long)b * E + i] = (widen(row[i]) - mean) * rstd * norm_weight[i] + norm_bias[i];
}
