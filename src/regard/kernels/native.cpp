// The loops of the decoder's recurrence and of its vocabulary loss.
//
// `regard.kernels.native` compiles this file for the machine that it runs on, with REAL = float and,
// where float64 is asked for, with REAL = double. Matrix products stay with the BLAS of torch;
// here is what lies between them. Rows are independent of each other, and sums over rows are left
// to the caller, so that results do not depend on the number of threads.
//
// Additive scores are v . tanh(k + q) over L cells, for every row and step. With K = exp(-2 k) of
// the keys and Q = exp(-2 q) of a query, tanh(k + q) = 2 r - 1 where r = 1 / (1 + K Q): one division
// takes the place of a tanh, K is computed once per batch, and 1 - tanh^2 = 4 r (1 - r).

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

using T = REAL;

namespace {

// exp for arguments that `bounded` let through; written so that compilers can use vectors.
inline float exponential(float x) {
    const float rounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const float n = (x * 1.44269504f + rounder) - rounder;
    const float f = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // x - n ln 2, in two parts
    float p = 1.0f / 5040;
    p = p * f + 1.0f / 720;
    p = p * f + 1.0f / 120;
    p = p * f + 1.0f / 24;
    p = p * f + 1.0f / 6;
    p = p * f + 0.5f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}
inline double exponential(double x) { return std::exp(x); }

// Beyond these, exp leaves the numbers of the type. NaN passes, so that it reaches the loss.
inline float bounded(float x) { return x < -86.0f ? -86.0f : (x > 86.0f ? 86.0f : x); }
inline double bounded(double x) { return x < -700.0 ? -700.0 : (x > 700.0 ? 700.0 : x); }

inline T exp_of(T x) { return exponential(bounded(x)); }
inline T sigmoid(T x) { return T(1) / (T(1) + exp_of(-x)); }
inline T tanh_of(T x) { return T(2) / (T(1) + exp_of(T(-2) * x)) - T(1); }

inline T dot(const T* a, const T* b, int64_t n) {
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

inline void add_scaled(T* to, T by, const T* x, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] += by * x[i];
}

// v . 1 / (1 + K Q)
inline T weighted(const T* v, const T* key, const T* query, int64_t n) {
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += v[i] / (T(1) + key[i] * query[i]);
    return sum;
}

// to += by (r - r^2), r = 1 / (1 + K Q)
inline void add_slope(T* to, T by, const T* key, const T* query, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const T r = T(1) / (T(1) + key[i] * query[i]);
        to[i] += by * (r - r * r);
    }
}

// Rows of one item are taken by four: what they share is read once. (Cells are not: four streams
// from memory are slower than one.)
constexpr int64_t FOUR = 4;

// Four of `count` things from `start` on: which they are, and 1, or 0 for one that stands in for
// a fourth that is not there.
struct Four {
    int64_t at[FOUR];
    T real[FOUR];
    Four(int64_t start, int64_t count) {
        for (int64_t j = 0; j < FOUR; ++j) {
            at[j] = start + j < count ? start + j : count - 1;
            real[j] = start + j < count ? T(1) : T(0);
        }
    }
};

// to += sum_j by_j x_j
inline void add_four(T* to, const T by[FOUR], const T* w, const T* x, const T* y, const T* z,
                     int64_t n) {
    const T a = by[0], b = by[1], c = by[2], d = by[3];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] += a * w[i] + b * x[i] + c * y[i] + d * z[i];
}

// to += sum_j by_j (r_j - r_j^2) and also += sum_j by_j r_j, where r = 1 / (1 + K Q).
inline void slope_four(T* to, T* also, const T by[FOUR], const T* with, const T* w, const T* x,
                       const T* y, const T* z, int64_t n) {
    const T a = by[0], b = by[1], c = by[2], d = by[3];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const T p = T(1) / (T(1) + w[i] * with[i]), q = T(1) / (T(1) + x[i] * with[i]);
        const T r = T(1) / (T(1) + y[i] * with[i]), s = T(1) / (T(1) + z[i] * with[i]);
        const T sum = a * p + b * q + c * r + d * s;
        to[i] += sum - (a * p * p + b * q * q + c * r * r + d * s * s);
        also[i] += sum;
    }
}

// Columns of a packed weight that are multiplied together: two vectors of the processor.
#ifdef __AVX512F__
constexpr int64_t VECTOR = 64 / sizeof(T);
#else
constexpr int64_t VECTOR = 32 / sizeof(T);
#endif
constexpr int64_t PANEL = 2 * VECTOR;
constexpr int64_t BLOCK = 6;  // rows: 12 sums, 2 columns and 1 row's number are 15 of 16 registers
constexpr int64_t TILE_ROWS = 96;
constexpr int64_t TILE_INNER = 512;
typedef T Vector __attribute__((vector_size(VECTOR * sizeof(T)), aligned(sizeof(T)), may_alias));

// ROWS rows of x times one panel.
template <int ROWS>
inline void block(int64_t inner, int64_t x_step, const T* x, const T* panel, int64_t out_step,
                  int64_t add, int64_t width, T* out) {
    Vector sums[ROWS][2] = {};
    for (int64_t k = 0; k < inner; ++k) {
        const Vector* column = reinterpret_cast<const Vector*>(panel + k * PANEL);
        const Vector left = column[0], right = column[1];
        for (int row = 0; row < ROWS; ++row) {
            const T number = x[row * x_step + k];
            sums[row][0] += number * left;
            sums[row][1] += number * right;
        }
    }
    for (int row = 0; row < ROWS; ++row) {
        T line[PANEL];
        std::memcpy(line, sums[row], sizeof line);
        for (int64_t j = 0; j < width; ++j)
            out[row * out_step + j] = line[j] + (add ? out[row * out_step + j] : T(0));
    }
}

void softmax(T* x, const uint8_t* mask, T scale, int64_t n) {
    T top = -INFINITY;
    for (int64_t i = 0; i < n; ++i) {
        x[i] *= scale;
        if (mask[i] && !(x[i] <= top)) top = x[i];
    }
    T sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += x[i] = mask[i] ? exp_of(x[i] - top) : T(0);
    for (int64_t i = 0; i < n; ++i) x[i] /= sum;
}

}  // namespace

extern "C" {

void exponentials(int64_t n, const T* x, T* out) {
#pragma omp parallel for schedule(static)
    for (int64_t start = 0; start < n; start += 4096) {
        const int64_t stop = start + 4096 < n ? start + 4096 : n;
#pragma omp simd
        for (int64_t i = start; i < stop; ++i) out[i] = exp_of(T(-2) * x[i]);
    }
}

// `back`: begin with the last row. Where a call reads what the call before it has just read, the
// part that is still in the cache comes first.
void attend(int64_t rows, int64_t cells, int64_t size, int64_t features, const int64_t* item,
            const T* keys, const T* queries, const T* v, int64_t back, const uint8_t* mask,
            T scale, const T* values, T* alpha, T* context) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t row = back ? rows - 1 - i : i, at = item[row] * cells;
        const T* query = queries + row * size;
        T* weights = alpha + row * cells;
        for (int64_t cell = 0; cell < cells; ++cell) {
            const T* key = keys + (at + cell) * size;
            // 2 v . r less the sum of v, which the softmax does not see
            weights[cell] = v ? 2 * weighted(v, key, query, size) : dot(query, key, size);
        }
        softmax(weights, mask + at, scale, cells);
        if (!context) continue;
        T* sum = context + row * features;
        std::memset(sum, 0, features * sizeof(T));
        for (int64_t cell = 0; cell < cells; ++cell)
            add_scaled(sum, weights[cell], values + (at + cell) * features, features);
    }
}

// From the gradients of contexts, alpha and log alpha at the chosen cell to those of the scores
// and queries. Contexts are expectations where `expected` says so, or everywhere without it.
void attend_backward(int64_t rows, int64_t cells, int64_t size, int64_t features,
                     const int64_t* item, const T* keys, const T* queries, const T* v,
                     int64_t back, T scale, const T* values, const T* alpha, const T* of_context,
                     const T* of_alpha, const uint8_t* expected, const int64_t* chosen,
                     const T* of_logprob, T* of_scores, T* of_queries) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t row = back ? rows - 1 - i : i, at = item[row] * cells;
        const T *query = queries + row * size, *weights = alpha + row * cells;
        T *slope = of_scores + row * cells, *of_query = of_queries + row * size;
        std::memcpy(slope, of_alpha + row * cells, cells * sizeof(T));
        if (!expected || expected[row])
            for (int64_t cell = 0; cell < cells; ++cell)
                slope[cell] +=
                    dot(of_context + row * features, values + (at + cell) * features, features);
        const T mean = dot(weights, slope, cells);
        for (int64_t cell = 0; cell < cells; ++cell)
            slope[cell] = weights[cell] * (slope[cell] - mean);
        if (chosen) {
            for (int64_t cell = 0; cell < cells; ++cell)
                slope[cell] -= of_logprob[row] * weights[cell];
            slope[chosen[row]] += of_logprob[row];
        }
        std::memset(of_query, 0, size * sizeof(T));
        for (int64_t cell = 0; cell < cells; ++cell) {
            const T* key = keys + (at + cell) * size;
            slope[cell] *= scale;
            if (v)
                add_slope(of_query, slope[cell], key, query, size);
            else
                add_scaled(of_query, slope[cell], key, size);
        }
        if (v)
            for (int64_t u = 0; u < size; ++u) of_query[u] *= 4 * v[u];
    }
}

// What all rows of an item (first[i] to first[i + 1] of `row`) add to its keys, to v and values. The
// gradient of the keys takes the place of the keys, which nothing needs afterwards.
void collect(int64_t items, int64_t cells, int64_t size, int64_t features, const int64_t* first,
             const int64_t* row, T* keys, const T* queries, const T* v, const T* of_scores,
             const T* weights, const T* of_context, T* of_v, T* of_values) {
#pragma omp parallel for schedule(static)
    for (int64_t item = 0; item < items; ++item) {
        const int64_t count = first[item + 1] - first[item], *own = row + first[item];
        T *sums = v ? of_v + item * size : nullptr, four[FOUR], total = 0;
        std::vector<T> key(size);
        if (v) std::memset(sums, 0, size * sizeof(T));
        for (int64_t cell = 0; cell < cells; ++cell) {
            T* of_key = keys + (item * cells + cell) * size;
            std::memcpy(key.data(), of_key, size * sizeof(T));
            std::memset(of_key, 0, size * sizeof(T));
            for (int64_t k = 0; k < count; k += FOUR) {
                const Four c(k, count);
                for (int64_t j = 0; j < FOUR; ++j) {
                    four[j] = c.real[j] * of_scores[own[c.at[j]] * cells + cell];
                    total += four[j];
                }
                const T *q0 = queries + own[c.at[0]] * size, *q1 = queries + own[c.at[1]] * size;
                const T *q2 = queries + own[c.at[2]] * size, *q3 = queries + own[c.at[3]] * size;
                if (v)
                    slope_four(of_key, sums, four, key.data(), q0, q1, q2, q3, size);
                else
                    add_four(of_key, four, q0, q1, q2, q3, size);
            }
            if (v)
                for (int64_t i = 0; i < size; ++i) of_key[i] *= 4 * v[i];
            if (!of_values) continue;
            T* of_value = of_values + (item * cells + cell) * features;
            std::memset(of_value, 0, features * sizeof(T));
            for (int64_t k = 0; k < count; k += FOUR) {
                const Four c(k, count);
                for (int64_t j = 0; j < FOUR; ++j)
                    four[j] = c.real[j] * weights[own[c.at[j]] * cells + cell];
                add_four(of_value, four, of_context + own[c.at[0]] * features,
                         of_context + own[c.at[1]] * features,
                         of_context + own[c.at[2]] * features,
                         of_context + own[c.at[3]] * features, features);
            }
        }
        // tanh = 2 r - 1
        if (v)
            for (int64_t i = 0; i < size; ++i) sums[i] = 2 * sums[i] - total;
    }
}

// A weight (inner, outer), whose numbers lie inner_step and outer_step apart, as panels of PANEL
// columns: all of a panel's first row, of its second, ... Missing columns are 0.
void pack(int64_t inner, int64_t outer, int64_t inner_step, int64_t outer_step, const T* weight,
          T* panels) {
#pragma omp parallel for schedule(static)
    for (int64_t start = 0; start < outer; start += PANEL) {
        T* panel = panels + start * inner;
        for (int64_t k = 0; k < inner; ++k)
            for (int64_t j = 0; j < PANEL; ++j)
                panel[k * PANEL + j] =
                    start + j < outer ? weight[k * inner_step + (start + j) * outer_step] : T(0);
    }
}

// out (rows, outer) = x (rows, inner) times a packed weight, added to it where `add` says so.
// BLAS libraries pack the weight anew in every product, which takes as long as 64 rows of it do.
// Tiles keep what is used again in the caches: a panel's part in the first, rows in the second.
void product(int64_t rows, int64_t inner, int64_t outer, int64_t x_step, const T* x,
             const T* panels, int64_t out_step, int64_t add, T* out) {
    // As many rows as are left at the end of a tile go together: 64 are ten blocks and four rows.
    constexpr decltype(&block<1>) blocks[] = {nullptr,  block<1>, block<2>, block<3>,
                                              block<4>, block<5>, block<BLOCK>};
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t top = 0; top < rows; top += TILE_ROWS) {
        for (int64_t left = 0; left < outer; left += PANEL) {
            const int64_t bottom = rows - top < TILE_ROWS ? rows : top + TILE_ROWS;
            const int64_t width = outer - left < PANEL ? outer - left : PANEL;
            for (int64_t k = 0; k < inner; k += TILE_INNER) {
                const int64_t depth = inner - k < TILE_INNER ? inner - k : TILE_INNER;
                const T* panel = panels + left * inner + k * PANEL;
                const int64_t adds = add || k;
                for (int64_t row = top; row < bottom; row += BLOCK)
                    blocks[bottom - row < BLOCK ? bottom - row : BLOCK](
                        depth, x_step, x + row * x_step + k, panel, out_step, adds, width,
                        out + row * out_step + left);
            }
        }
    }
}

// gates: i, f, o, g before their activations, then after them.
void lstm(int64_t rows, int64_t units, T* gates, const T* before, T* memory, T* hidden) {
#pragma omp parallel for schedule(static)
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

// of_gates has rows of `stride` numbers; of_memory holds the later step's and gets this one's.
void lstm_backward(int64_t rows, int64_t units, int64_t stride, const T* gates, const T* before,
                   const T* memory, const T* of_hidden, T* of_memory, T* of_gates) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
        const T *i = gates + 4 * row * units, *f = i + units, *o = f + units, *g = o + units;
        T* out = of_gates + row * stride;
#pragma omp simd
        for (int64_t u = 0; u < units; ++u) {
            const int64_t at = row * units + u;
            const T t = tanh_of(memory[at]);
            const T of_m = of_memory[at] + of_hidden[at] * o[u] * (T(1) - t * t);
            out[u] = of_m * g[u] * i[u] * (T(1) - i[u]);
            out[units + u] = of_m * before[at] * f[u] * (T(1) - f[u]);
            out[2 * units + u] = of_hidden[at] * t * o[u] * (T(1) - o[u]);
            out[3 * units + u] = of_m * i[u] * (T(1) - g[u] * g[u]);
            of_memory[at] = of_m * f[u];
        }
    }
}

// Logits, less their bias, become probabilities; loss = -sum_w share_w log p_w, where share is
// `smoothing` / words for all words and 1 - smoothing more for the target.
void cross_entropy(int64_t rows, int64_t words, int64_t stride, const T* bias, T* logits,
                   const int64_t* target, T smoothing, T* loss) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
        T* x = logits + row * stride;
        T top = x[0] + bias[0], all = 0, sum = 0;
#pragma omp simd reduction(max : top)
        for (int64_t w = 0; w < words; ++w) {
            x[w] += bias[w];
            top = x[w] > top ? x[w] : top;
        }
        const T own = x[target[row]];
#pragma omp simd reduction(+ : sum, all)
        for (int64_t w = 0; w < words; ++w) {
            all += x[w];
            x[w] = exp_of(x[w] - top);
            sum += x[w];
        }
        const T log_sum = top + std::log(sum), share = T(1) / sum;
        loss[row] = log_sum - (T(1) - smoothing) * own - smoothing / words * all;
#pragma omp simd
        for (int64_t w = 0; w < words; ++w) x[w] *= share;
    }
}

// Probabilities become the gradient of the logits.
void cross_entropy_backward(int64_t rows, int64_t words, int64_t stride, T* x,
                            const int64_t* target, T smoothing, const T* of_loss) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
        T* p = x + row * stride;
        const T by = of_loss[row], less = smoothing / words;
#pragma omp simd
        for (int64_t w = 0; w < words; ++w) p[w] = by * (p[w] - less);
        p[target[row]] -= by * (T(1) - smoothing);
    }
}

}  // extern "C"
