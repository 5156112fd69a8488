// y = [residual +] [gelu of] ([layer norm of] x) W^T [+ bias], for `rows` rows of x, at most ROWS. See matvec.py.
//
// A warp computes OUT columns of y for all rows. Its lanes go along the rows of W, 16 bytes each at a time, so that a
// weight is read once, whatever the number of rows; x, which all warps read, stays in the caches.
constexpr int AHEAD = ROWS == 1 ? 4 : 1;  // with one row, more loads under way

template <class T>
struct alignas(sizeof(T) * WIDE > 16 ? 16 : sizeof(T) * WIDE) Pack {  // what one load brings
    T at[WIDE];
};

extern "C" __global__ void __launch_bounds__(32 * WARPS) matvec(
    const float* __restrict__ x,            // [rows, I]
    const WEIGHT* __restrict__ weight,      // [O, I]
    const float* __restrict__ bias,         // [O]
    const float* __restrict__ norm_weight,  // [I]
    const float* __restrict__ norm_bias,    // [I]
    const float* residual,                  // [rows, O], may be y
    float* y,                               // [rows, O]
    int rows, int I, int O, float eps) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    long long first = ((long long)blockIdx.x * WARPS + warp) * OUT;  // of the columns of y

#if NORM
    __shared__ float means[ROWS], rstds[ROWS];
    for (int n = warp; n < rows; n += WARPS) {
        float sum = 0, squares = 0;
        for (int i = lane; i < I; i += 32) sum += x[n * I + i];
        float mean = warp_sum(sum) / I;
        for (int i = lane; i < I; i += 32) squares += (x[n * I + i] - mean) * (x[n * I + i] - mean);
        float rstd = 1.0f / sqrtf(warp_sum(squares) / I + eps);
        if (lane == 0) means[n] = mean, rstds[n] = rstd;
    }
    __syncthreads();
#endif

    float sums[OUT][ROWS] = {};
#pragma unroll AHEAD
    for (int i = lane * WIDE; i < I; i += 32 * WIDE) {
        Pack<WEIGHT> w[OUT];
#pragma unroll
        for (int o = 0; o < OUT; o++) w[o] = *(const Pack<WEIGHT>*)(weight + min(first + o, O - 1LL) * I + i);
#if NORM
        Pack<float> scale = *(const Pack<float>*)(norm_weight + i), shift = *(const Pack<float>*)(norm_bias + i);
#endif
#pragma unroll
        for (int n = 0; n < ROWS; n++) {
            if (n >= rows) break;
            Pack<float> in = *(const Pack<float>*)(x + n * I + i);
#pragma unroll
            for (int j = 0; j < WIDE; j++) {
                float value = in.at[j];
#if NORM
                value = (value - means[n]) * rstds[n] * scale.at[j] + shift.at[j];
#endif
#pragma unroll
                for (int o = 0; o < OUT; o++) sums[o][n] += widen(w[o].at[j]) * value;
            }
        }
    }

#pragma unroll
    for (int o = 0; o < OUT; o++) {
        float out = 0;  // lane n keeps that of row n
#pragma unroll
        for (int n = 0; n < ROWS; n++) {
            if (n >= rows) break;
            float sum = warp_sum(sums[o][n]);
            if (lane == n) out = sum;
        }
        if (lane >= rows || first + o >= O) continue;
        long long place = (long long)lane * O + first + o;
#if BIAS
        out += bias[first + o];
#endif
#if GELU
        out /= 1.0f + expf(-2.0f * 0.79788456f * out * (1.0f + 0.044715f * out * out));
#endif
#if RESIDUAL
        out += residual[place];
#endif
        y[place] = out;
    }
}
