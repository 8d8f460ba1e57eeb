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

#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

using T = REAL;

namespace {

thread_local int asked = 0;
int team() { return asked ? asked : omp_get_max_threads(); }

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

// Numbers in a vector of the processor, and in a line of its caches.
#ifdef __AVX512F__
constexpr int64_t VECTOR = 64 / sizeof(T);
#else
constexpr int64_t VECTOR = 32 / sizeof(T);
#endif
constexpr int64_t LINE = 64 / sizeof(T);
typedef T Vector __attribute__((vector_size(VECTOR * sizeof(T)), aligned(sizeof(T)), may_alias));

inline Vector load(const T* x) { return *reinterpret_cast<const Vector*>(x); }

// Of rows of n numbers that are read one after the other, send for the one after the next: the
// processor by itself stops fetching at the end of a page of memory.
inline void fetch(const T* row, int64_t n) {
    for (int64_t i = 0; i < n; i += LINE) __builtin_prefetch(row + 2 * n + i);
}

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

// Columns of a packed weight that are multiplied together.
constexpr int64_t PANEL = 2 * VECTOR;
constexpr int64_t BLOCK = 6;  // rows: 12 sums, 2 columns and 1 row's number are 15 of 16 registers
constexpr int64_t DEPTH = 1024 / sizeof(T);  // of a panel and a block at a time: 22 of 32 kB of L1
constexpr int64_t TILE = 96;                 // rows that are arranged together,
constexpr int64_t SLAB = 4096 / sizeof(T);   // and numbers of each: 393 kB
constexpr int64_t MANY = 8;  // tiles a thread from which each thread takes tiles of its own

// ROWS arranged rows times one panel.
template <int ROWS>
inline void block(int64_t depth, const T* x, const T* panel, int64_t out_step, bool add,
                  int64_t width, T* out) {
    Vector sums[ROWS][2] = {};
    for (int64_t k = 0; k < depth; ++k) {
        const Vector* column = reinterpret_cast<const Vector*>(panel + k * PANEL);
        const Vector left = column[0], right = column[1];
        for (int row = 0; row < ROWS; ++row) {
            const T number = x[k * ROWS + row];
            sums[row][0] += number * left;
            sums[row][1] += number * right;
        }
    }
    for (int row = 0; row < ROWS; ++row) {
        T line[PANEL], *to = out + row * out_step;
        std::memcpy(line, sums[row], sizeof line);
        if (add)
            for (int64_t j = 0; j < width; ++j) to[j] += line[j];
        else
            for (int64_t j = 0; j < width; ++j) to[j] = line[j];
    }
}

// As many rows as are left at the end of a tile go together: 64 are ten blocks and four rows.
constexpr decltype(&block<1>) BLOCKS[] = {nullptr,  block<1>, block<2>,    block<3>,
                                          block<4>, block<5>, block<BLOCK>};

// `rows` rows of x and `slab` numbers of each, which become blocks of DEPTH numbers.
struct Tile {
    int64_t rows, slab;
    T* numbers;

    int64_t in_block(int64_t row) const { return rows - row < BLOCK ? rows - row : BLOCK; }
    int64_t depth(int64_t k) const { return slab - k < DEPTH ? slab - k : DEPTH; }
    T* at(int64_t row, int64_t k) const { return numbers + k * rows + row * depth(k); }

    // A block's numbers in the order that `times` reads them: those of a column side by side.
    void arrange(int64_t row, int64_t k, int64_t row_step, int64_t step, const T* x) const {
        T* out = at(row, k);
        const int64_t count = in_block(row);
        x += row * row_step + k * step;
        if (count == BLOCK)
            for (int64_t i = 0; i < depth(k); ++i)
                for (int64_t j = 0; j < BLOCK; ++j) out[i * BLOCK + j] = x[j * row_step + i * step];
        else
            for (int64_t i = 0; i < depth(k); ++i)
                for (int64_t j = 0; j < count; ++j) out[i * count + j] = x[j * row_step + i * step];
    }

    // The tile times a panel. What comes next in the panel is on its way from memory meanwhile,
    // a share for each block; few blocks would wait for it instead.
    void times(const T* panel, int64_t out_step, bool add, int64_t width, T* out) const {
        const int64_t blocks = (rows + BLOCK - 1) / BLOCK;
        for (int64_t k = 0; k < slab; k += DEPTH) {
            const T *part = panel + k * PANEL, *next = part + depth(k) * PANEL;
            const int64_t lines = blocks < 4 ? 0 : depth(k) * PANEL / LINE / blocks + 1;
            for (int64_t row = 0; row < rows; row += BLOCK) {
                for (int64_t line = 0; line < lines; ++line, next += LINE) __builtin_prefetch(next);
                BLOCKS[in_block(row)](depth(k), at(row, k), part, out_step, add || k, width,
                                      out + row * out_step);
            }
        }
    }
};

// Memory that a thread keeps: what malloc maps anew costs a fault for every page.
T* scratch(int64_t count) {
    static thread_local std::vector<T> kept;
    if (static_cast<int64_t>(kept.size()) < count) kept.resize(count);
    return kept.data();
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
template <int ROWS>
void look(int64_t cells, int64_t size, int64_t features, const T* keys, const T* queries,
          const T* v, const uint8_t* mask, T scale, const T* values, T* alpha, T* context) {
    for (int64_t cell = 0; cell < cells; ++cell) {
        T scores[ROWS];
        fetch(keys + cell * size, size);
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

constexpr decltype(&look<1>) LOOKS[] = {nullptr, look<1>, look<2>, look<3>, look<FOUR>};

constexpr int64_t RANKED = 64;  // words that share one maximum on the way to the strongest

}  // namespace

extern "C" {

void exponentials(int64_t n, const T* x, T* out) {
#pragma omp parallel for schedule(static) num_threads(team())
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
    // Rows of one item that lie side by side, as a beam's do, read its keys and values once.
    std::vector<int64_t> first;
    for (int64_t row = 0; row < rows; ++row)
        if (!row || item[row] != item[row - 1] || row - first.back() == FOUR) first.push_back(row);
    const int64_t groups = static_cast<int64_t>(first.size());
    first.push_back(rows);
#pragma omp parallel for schedule(static) num_threads(team())
    for (int64_t i = 0; i < groups; ++i) {
        const int64_t group = back ? groups - 1 - i : i, row = first[group];
        LOOKS[first[group + 1] - row](cells, size, features, keys + item[row] * cells * size,
                                      queries + row * size, v, mask + item[row] * cells, scale,
                                      values + item[row] * cells * features, alpha + row * cells,
                                      context + row * features);
    }
}

// From the gradients of contexts, alpha and log alpha at the chosen cell to those of the scores
// and queries. Contexts are expectations where `expected` says so, or everywhere without it.
void attend_backward(int64_t rows, int64_t cells, int64_t size, int64_t features,
                     const int64_t* item, const T* keys, const T* queries, const T* v,
                     int64_t back, T scale, const T* values, const T* alpha, const T* of_context,
                     const T* of_alpha, const uint8_t* expected, const int64_t* chosen,
                     const T* of_logprob, T* of_scores, T* of_queries) {
#pragma omp parallel for schedule(static) num_threads(team())
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
#pragma omp parallel for schedule(static) num_threads(team())
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
#pragma omp parallel for schedule(static) num_threads(team())
    for (int64_t start = 0; start < outer; start += PANEL) {
        T* panel = panels + start * inner;
        const T* from = weight + start * outer_step;
        const int64_t width = outer - start < PANEL ? outer - start : PANEL;
        if (width < PANEL) std::memset(panel, 0, inner * PANEL * sizeof(T));
        if (width == PANEL && outer_step == 1)
            for (int64_t k = 0; k < inner; ++k)
                std::memcpy(panel + k * PANEL, from + k * inner_step, PANEL * sizeof(T));
        else if (width == PANEL)
            for (int64_t k = 0; k < inner; ++k)
                for (int64_t j = 0; j < PANEL; ++j)
                    panel[k * PANEL + j] = from[k * inner_step + j * outer_step];
        else
            for (int64_t k = 0; k < inner; ++k)
                for (int64_t j = 0; j < width; ++j)
                    panel[k * PANEL + j] = from[k * inner_step + j * outer_step];
    }
}

// out (rows, outer) = x (rows, inner) times a packed weight, added to it where `add` says so.
// BLAS libraries pack the weight anew in every product, which takes as long as 64 rows of it do.
// Numbers of x lie x_row and x_step apart. Many tiles go to the threads tile by tile; of a few
// all threads take panels.
void product(int64_t rows, int64_t inner, int64_t outer, int64_t x_row, int64_t x_step, const T* x,
             const T* panels, int64_t out_step, int64_t add, T* out) {
    const int64_t room = TILE * (inner < SLAB ? inner : SLAB);
    const bool many = rows > MANY * TILE * team();
    T* shared = many ? nullptr : scratch(room);
#pragma omp parallel if (rows * outer > LINE * LINE) num_threads(team())
    {
        T* own = many ? scratch(room) : shared;
        const int64_t first = many ? omp_get_thread_num() : 0;
        const int64_t stride = many ? omp_get_num_threads() : 1;
        for (int64_t top = first * TILE; top < rows; top += stride * TILE)
            for (int64_t k = 0; k < inner; k += SLAB) {
                const Tile tile = {rows - top < TILE ? rows - top : TILE,
                                   inner - k < SLAB ? inner - k : SLAB, own};
                const T* from = x + top * x_row + k * x_step;
                const T* panel = panels + k * PANEL;
                const auto times = [&](int64_t left) {
                    tile.times(panel + left * inner, out_step, add || k,
                               outer - left < PANEL ? outer - left : PANEL,
                               out + top * out_step + left);
                };
                if (many) {
                    for (int64_t part = 0; part < tile.slab; part += DEPTH)
                        for (int64_t row = 0; row < tile.rows; row += BLOCK)
                            tile.arrange(row, part, x_row, x_step, from);
                    for (int64_t left = 0; left < outer; left += PANEL) times(left);
                } else {
#pragma omp for collapse(2) schedule(static)
                    for (int64_t part = 0; part < tile.slab; part += DEPTH)
                        for (int64_t row = 0; row < tile.rows; row += BLOCK)
                            tile.arrange(row, part, x_row, x_step, from);
#pragma omp for schedule(static)
                    for (int64_t left = 0; left < outer; left += PANEL) times(left);
                }
            }
    }
}

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

// How many threads the loops take that this thread calls; 0: as many as OpenMP gives it.
void threads(int64_t count) { asked = static_cast<int>(count); }

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

// of_gates has rows of `stride` numbers; of_memory holds the later step's and gets this one's.
void lstm_backward(int64_t rows, int64_t units, int64_t stride, const T* gates, const T* before,
                   const T* memory, const T* of_hidden, T* of_memory, T* of_gates) {
#pragma omp parallel for schedule(static) num_threads(team())
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
#pragma omp parallel for schedule(static) num_threads(team())
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

// Logits, less their bias, get it; of each row log sum exp and the largest of every RANKED words.
void rank(int64_t rows, int64_t words, int64_t stride, const T* bias, T* logits, T* maxima,
          T* normaliser) {
    const int64_t blocks = (words + RANKED - 1) / RANKED;
#pragma omp parallel for schedule(static) num_threads(team())
    for (int64_t row = 0; row < rows; ++row) {
        T *x = logits + row * stride, *largest = maxima + row * blocks, top = -INFINITY, sum = 0;
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t start = b * RANKED;
            const int64_t stop = words - start < RANKED ? words : start + RANKED;
            T most = -INFINITY;
#pragma omp simd reduction(max : most)
            for (int64_t w = start; w < stop; ++w) {
                x[w] += bias[w];
                most = x[w] > most ? x[w] : most;
            }
            largest[b] = most;
            top = most > top ? most : top;
        }
#pragma omp simd reduction(+ : sum)
        for (int64_t w = 0; w < words; ++w) sum += exp_of(x[w] - top);
        normaliser[row] = top + std::log(sum);
    }
}

// The `count` largest of each row, best first, of equals the first. Blocks that hold none of them
// are not looked at.
void strongest(int64_t rows, int64_t words, int64_t stride, int64_t count, const T* logits,
               const T* maxima, int64_t* ids, T* values) {
    const int64_t blocks = (words + RANKED - 1) / RANKED;
#pragma omp parallel for schedule(static) num_threads(team())
    for (int64_t row = 0; row < rows; ++row) {
        const T* x = logits + row * stride;
        int64_t found = 0, *id = ids + row * count;
        T* value = values + row * count;
        for (int64_t b = 0; b < blocks; ++b) {
            if (found == count && !(maxima[row * blocks + b] > value[count - 1])) continue;
            const int64_t start = b * RANKED;
            const int64_t stop = words - start < RANKED ? words : start + RANKED;
            for (int64_t w = start; w < stop; ++w) {
                if (found == count && !(x[w] > value[count - 1])) continue;
                int64_t place = found < count ? found++ : count - 1;
                for (; place > 0 && x[w] > value[place - 1]; --place) {
                    value[place] = value[place - 1];
                    id[place] = id[place - 1];
                }
                value[place] = x[w];
                id[place] = w;
            }
        }
    }
}

// Probabilities become the gradient of the logits.
void cross_entropy_backward(int64_t rows, int64_t words, int64_t stride, T* x,
                            const int64_t* target, T smoothing, const T* of_loss) {
#pragma omp parallel for schedule(static) num_threads(team())
    for (int64_t row = 0; row < rows; ++row) {
        T* p = x + row * stride;
        const T by = of_loss[row], less = smoothing / words;
#pragma omp simd
        for (int64_t w = 0; w < words; ++w) p[w] = by * (p[w] - less);
        p[target[row]] -= by * (T(1) - smoothing);
    }
}

}  // extern "C"
