// Gate and LSTM.

extern "C" {

// beta = sigmoid(x + bias) of `size` numbers a row, 1 or as many as features; contexts times it.
void gate(int64_t rows, int64_t size, int64_t features, int64_t stride, const T* x, const T* bias,
          T* beta, T* context) {
#pragma omp parallel for schedule(static) num_threads(team())
    for (int64_t row = 0; row < rows; ++row) {
        T *own = beta + row * size, *sum = context + row * features;
        for (int64_t u = 0; u < size; ++u) own[u] = sigmoid(x[row * stride + u] + bias[u]);
        for (int64_t d = 0; d < features; ++d) sum[d] *= own[size == 1 ? 0 : d];
    }
}

// gates: i, f, o, g before their activations, then after them.
void lstm(int64_t rows, int64_t units, T* gates, const T* before, T* memory, T* hidden) {
#pragma omp parallel for schedule(static) num_threads(team())
    for (int64_t row = 0; row < rows; ++row) {
        T *i = gates + 4 * row * units, *f = i + units, *o = f + units, *g = o + units;
#pragma omp simd
        for (int64_t u = 0; u < units; ++u) {
            i[u] = sigmoid(i[u]);
            f[u] = sigmoid(f[u]);
            o[u] = sigmoid(o[u]);
            g[u] = tanh_of(g[u]);
            memory[row * units + u] = f[u] * before[row * units + u] + i[u] * g[u];
            hidden[row * units + u] = o[u] * tanh_of(memory[row * units + u]);
        }
    }
}

// grad_gates has rows of `stride` numbers; grad_memory holds the later step's and gets this one's.
void lstm_backward(int64_t rows, int64_t units, int64_t stride, const T* gates, const T* before,
                   const T* memory, const T* grad_hidden, T* grad_memory, T* grad_gates) {
#pragma omp parallel for schedule(static) num_threads(team())
    for (int64_t row = 0; row < rows; ++row) {
        const T *i = gates + 4 * row * units, *f = i + units, *o = f + units, *g = o + units;
        T* out = grad_gates + row * stride;
#pragma omp simd
        for (int64_t u = 0; u < units; ++u) {
            const int64_t at = row * units + u;
            const T t = tanh_of(memory[at]);
            const T grad_m = grad_memory[at] + grad_hidden[at] * o[u] * (T(1) - t * t);
            out[u] = grad_m * g[u] * i[u] * (T(1) - i[u]);
            out[units + u] = grad_m * before[at] * f[u] * (T(1) - f[u]);
            out[2 * units + u] = grad_hidden[at] * t * o[u] * (T(1) - o[u]);
            out[3 * units + u] = grad_m * i[u] * (T(1) - g[u] * g[u]);
            grad_memory[at] = grad_m * f[u];
        }
    }
}

}  // extern "C"
