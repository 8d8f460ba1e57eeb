// Scores, contexts and their gradients.
//
// Additive scores are v . tanh(k + q) over L cells, for every row and step. With K = exp(-2 k) of
// the keys and Q = exp(-2 q) of a query, tanh(k + q) = 2 r - 1 where r = 1 / (1 + K Q): one division
// takes the place of a tanh, K is computed once per batch, and 1 - tanh^2 = 4 r (1 - r). Where |k| or
// |q| is too large for its exponential, `exponentials` leaves a code; then CODED loops run.

namespace {

// Of ROWS queries, one after the other: v . 1 / (1 + K Q), or K . Q without v.
template <int ROWS>
inline void score(const T* v, const T* key, const T* queries, int64_t n, T* scores) {
    Vector sums[ROWS] = {};
    int64_t i = 0;
    for (; i + VECTOR <= n; i += VECTOR) {
        const Vector k = load(key + i);
        for (int row = 0; row < ROWS; ++row) {
            const Vector product = k * load(queries + row * n + i);
            sums[row] += v ? load(v + i) / (T(1) + product) : product;
        }
    }
    for (int row = 0; row < ROWS; ++row) {
        T sum = 0;
        for (int64_t j = 0; j < VECTOR; ++j) sum += sums[row][j];
        for (int64_t j = i; j < n; ++j) {
            const T product = key[j] * queries[row * n + j];
            sum += v ? v[j] / (T(1) + product) : product;
        }
        scores[row] = sum;
    }
}

// The same with codes among K and Q.
template <int ROWS>
inline void score_coded(const T* v, const T* key, const T* queries, int64_t n, T* scores) {
    for (int row = 0; row < ROWS; ++row) {
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; ++i)
            sum += v[i] / (T(1) + exp_of_sum<true>(key[i], queries[row * n + i]));
        scores[row] = sum;
    }
}

// to += by (r - r^2), r = 1 / (1 + K Q)
template <bool CODED>
inline void add_slope(T* to, T by, const T* key, const T* query, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const T r = T(1) / (T(1) + exp_of_sum<CODED>(key[i], query[i]));
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
template <bool CODED>
inline void slope_four(T* to, T* also, const T by[FOUR], const T* with, const T* w, const T* x,
                       const T* y, const T* z, int64_t n) {
    const T a = by[0], b = by[1], c = by[2], d = by[3];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const T p = T(1) / (T(1) + exp_of_sum<CODED>(w[i], with[i]));
        const T q = T(1) / (T(1) + exp_of_sum<CODED>(x[i], with[i]));
        const T r = T(1) / (T(1) + exp_of_sum<CODED>(y[i], with[i]));
        const T s = T(1) / (T(1) + exp_of_sum<CODED>(z[i], with[i]));
        const T sum = a * p + b * q + c * r + d * s;
        to[i] += sum - (a * p * p + b * q * q + c * r * r + d * s * s);
        also[i] += sum;
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

// alpha and context of ROWS rows of one item.
template <int ROWS, bool CODED>
void look(int64_t cells, int64_t size, int64_t features, const T* keys, const T* queries,
          const T* v, const uint8_t* mask, T scale, const T* values, T* alpha, T* context) {
    for (int64_t cell = 0; cell < cells; ++cell) {
        T scores[ROWS];
        fetch(keys + cell * size, size);
        if (CODED)
            score_coded<ROWS>(v, keys + cell * size, queries, size, scores);
        else
            score<ROWS>(v, keys + cell * size, queries, size, scores);
        // 2 v . r less the sum of v, which the softmax does not see
        for (int row = 0; row < ROWS; ++row) alpha[row * cells + cell] = (v ? 2 : 1) * scores[row];
    }
    for (int row = 0; row < ROWS; ++row) softmax(alpha + row * cells, mask, scale, cells);
    std::memset(context, 0, ROWS * features * sizeof(T));
    for (int64_t cell = 0; cell < cells; ++cell) {
        const T* value = values + cell * features;
        fetch(value, features);
        for (int row = 0; row < ROWS; ++row)
            add_scaled(context + row * features, alpha[row * cells + cell], value, features);
    }
}

constexpr decltype(&look<1, false>) LOOKS[2][FOUR + 1] = {
    {nullptr, look<1, false>, look<2, false>, look<3, false>, look<FOUR, false>},
    {nullptr, look<1, true>, look<2, true>, look<3, true>, look<FOUR, true>}};

}  // namespace

extern "C" {

// `coded`: whether there are codes among keys or queries. `reverse`: begin with the last row. If a call reads what the call before it has just read, the
// part that is still in the cache comes first.
void attend(int64_t rows, int64_t cells, int64_t size, int64_t features, const int64_t* item,
            const T* keys, const T* queries, const T* v, int64_t coded, int64_t reverse,
            const uint8_t* mask, T scale, const T* values, T* alpha, T* context) {
    // Rows of one item that lie side by side, as a beam's do, read its keys and values once.
    std::vector<int64_t> first;
    for (int64_t row = 0; row < rows; ++row)
        if (!row || item[row] != item[row - 1] || row - first.back() == FOUR) first.push_back(row);
    const int64_t groups = static_cast<int64_t>(first.size());
    first.push_back(rows);
#pragma omp parallel for schedule(static) num_threads(team())
    for (int64_t i = 0; i < groups; ++i) {
        const int64_t group = reverse ? groups - 1 - i : i, row = first[group];
        LOOKS[coded != 0][first[group + 1] - row](cells, size, features, keys + item[row] * cells * size,
                                      queries + row * size, v, mask + item[row] * cells, scale,
                                      values + item[row] * cells * features, alpha + row * cells,
                                      context + row * features);
    }
}

// From the gradients of contexts, alpha and log alpha at the chosen cell to those of the scores
// and queries. Contexts are expectations where `expected` says so, or everywhere without it.
void attend_backward(int64_t rows, int64_t cells, int64_t size, int64_t features,
                     const int64_t* item, const T* keys, const T* queries, const T* v,
                     int64_t coded, int64_t reverse, T scale, const T* values, const T* alpha, const T* grad_context,
                     const T* grad_alpha, const uint8_t* expected, const int64_t* chosen,
                     const T* grad_logprob, T* grad_scores, T* grad_queries) {
#pragma omp parallel for schedule(static) num_threads(team())
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t row = reverse ? rows - 1 - i : i, at = item[row] * cells;
        const T *query = queries + row * size, *weights = alpha + row * cells;
        T *slope = grad_scores + row * cells, *grad_query = grad_queries + row * size;
        std::memcpy(slope, grad_alpha + row * cells, cells * sizeof(T));
        if (!expected || expected[row])
            for (int64_t cell = 0; cell < cells; ++cell) {
                const T* value = values + (at + cell) * features;
                fetch(value, features);
                slope[cell] += dot(grad_context + row * features, value, features);
            }
        const T mean = dot(weights, slope, cells);
        for (int64_t cell = 0; cell < cells; ++cell)
            slope[cell] = weights[cell] * (slope[cell] - mean);
        if (chosen) {
            for (int64_t cell = 0; cell < cells; ++cell)
                slope[cell] -= grad_logprob[row] * weights[cell];
            slope[chosen[row]] += grad_logprob[row];
        }
        std::memset(grad_query, 0, size * sizeof(T));
        for (int64_t cell = 0; cell < cells; ++cell) {
            const T* key = keys + (at + cell) * size;
            fetch(key, size);
            slope[cell] *= scale;
            if (v && coded)
                add_slope<true>(grad_query, slope[cell], key, query, size);
            else if (v)
                add_slope<false>(grad_query, slope[cell], key, query, size);
            else
                add_scaled(grad_query, slope[cell], key, size);
        }
        if (v)
            for (int64_t u = 0; u < size; ++u) grad_query[u] *= 4 * v[u];
    }
}

// What all rows of an item (first[i] to first[i + 1] of `row`) add to its keys, to v and values. The
// gradient of the keys takes the place of the keys, which nothing needs afterwards.
void collect(int64_t items, int64_t cells, int64_t size, int64_t features, const int64_t* first,
             const int64_t* row, T* keys, const T* queries, const T* v, int64_t coded,
             const T* grad_scores,
             const T* weights, const T* grad_context, T* grad_v, T* grad_values) {
#pragma omp parallel for schedule(static) num_threads(team())
    for (int64_t item = 0; item < items; ++item) {
        const int64_t count = first[item + 1] - first[item], *own = row + first[item];
        T *sums = v ? grad_v + item * size : nullptr, four[FOUR], total = 0;
        std::vector<T> key(size);
        if (v) std::memset(sums, 0, size * sizeof(T));
        for (int64_t cell = 0; cell < cells; ++cell) {
            T* grad_key = keys + (item * cells + cell) * size;
            std::memcpy(key.data(), grad_key, size * sizeof(T));
            std::memset(grad_key, 0, size * sizeof(T));
            for (int64_t k = 0; k < count; k += FOUR) {
                const Four c(k, count);
                for (int64_t j = 0; j < FOUR; ++j) {
                    four[j] = c.real[j] * grad_scores[own[c.at[j]] * cells + cell];
                    total += four[j];
                }
                const T *q0 = queries + own[c.at[0]] * size, *q1 = queries + own[c.at[1]] * size;
                const T *q2 = queries + own[c.at[2]] * size, *q3 = queries + own[c.at[3]] * size;
                if (v && coded)
                    slope_four<true>(grad_key, sums, four, key.data(), q0, q1, q2, q3, size);
                else if (v)
                    slope_four<false>(grad_key, sums, four, key.data(), q0, q1, q2, q3, size);
                else
                    add_four(grad_key, four, q0, q1, q2, q3, size);
            }
            if (v)
                for (int64_t i = 0; i < size; ++i) grad_key[i] *= 4 * v[i];
            if (!grad_values) continue;
            T* grad_value = grad_values + (item * cells + cell) * features;
            std::memset(grad_value, 0, features * sizeof(T));
            for (int64_t k = 0; k < count; k += FOUR) {
                const Four c(k, count);
                for (int64_t j = 0; j < FOUR; ++j)
                    four[j] = c.real[j] * weights[own[c.at[j]] * cells + cell];
                add_four(grad_value, four, grad_context + own[c.at[0]] * features,
                         grad_context + own[c.at[1]] * features,
                         grad_context + own[c.at[2]] * features,
                         grad_context + own[c.at[3]] * features, features);
            }
        }
        // tanh = 2 r - 1
        if (v)
            for (int64_t i = 0; i < size; ++i) sums[i] = 2 * sums[i] - total;
    }
}

}  // extern "C"
