// GELU and its slope: see gelu.py, and layers/mlp.py for the formulas. A block has some columns of one row.
constexpr float C = 0.79788456f, A = 0.044715f;

// (1 + tanh u) / 2, the share of x that gelu lets through. By exp, not tanhf: 1 + tanh u has no digits left where u < -5.
__device__ __forceinline__ float gate(float x) { return 1.0f / (1.0f + expf(-2.0f * C * x * (1.0f + A * x * x))); }

extern "C" __global__ void gelu(const float* x, float* y, int width) {
    int column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= width) return;
    long long i = (long long)blockIdx.x * width + column;
    y[i] = x[i] * gate(x[i]);
}

// up + bias, and gelu of it. Where `act` is `up` itself, the sum is not kept.
extern "C" __global__ void bias_gelu(float* up, const float* bias, float* act, int width) {
    int column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= width) return;
    long long i = (long long)blockIdx.x * width + column;
    float x = up[i] + bias[column];
    up[i] = x;
    act[i] = x * gate(x);
}

extern "C" __global__ void gelu_backward(const float* dy, const float* x, float* dx, int width) {
    int column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= width) return;
    long long i = (long long)blockIdx.x * width + column;
    float g = gate(x[i]), slope = C + 3.0f * A * C * x[i] * x[i];  // u'
    dx[i] = dy[i] * (g + 2.0f * x[i] * g * (1.0f - g) * slope);
}
