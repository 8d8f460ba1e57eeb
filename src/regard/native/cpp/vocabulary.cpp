// The vocabulary product in 16-bit integers, which takes processors half the time, and what it
// finds strongest once more in full.

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <algorithm>

namespace {

// Lengths, in steps of their own, of a row of x and of a word's weights. Rounding makes them longer
// by sqrt(n) / 2: up to a million numbers their product stays below 2^31, and so do sums of it.
constexpr T LONGEST_ROW = 65000, LONGEST_WORD = 32000;
constexpr T LARGEST = 32767;  // 16-bit number

constexpr int64_t INTS = VECTOR * sizeof(T) / sizeof(int32_t);
constexpr int64_t WORDS = 2 * INTS;  // that are multiplied together; each number is a pair of two
typedef int32_t Ints __attribute__((vector_size(INTS * 4), aligned(4), may_alias));

// sum + a.low * b.low + a.high * b.high for each pair of 16-bit numbers.
inline Ints add_pairs(Ints sum, Ints a, Ints b) {
#if defined(__AVX512VNNI__)
    return reinterpret_cast<Ints>(
        _mm512_dpwssd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(a),
                            reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__) && !defined(__AVX512F__)
    return sum + reinterpret_cast<Ints>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a),
                                                          reinterpret_cast<__m256i>(b)));
#else
    return sum + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

constexpr int64_t LINES = 64 / sizeof(int32_t);  // pairs in a line of the caches
constexpr int64_t PART = 64;                     // numbers that are rounded together

struct Short {
    T step, length, error;  // what 1 is worth; of the numbers, and of what rounding took
};

// n numbers become pairs of 16-bit ones, `apart` from each other, as fine as `longest` lets them.
inline Short shorten(const T* x, int64_t n, T longest, int64_t apart, int32_t* out) {
    const T length = std::sqrt(dot(x, x, n));
    const bool any = length > T(1e-15) && length < INFINITY;  // else they are 0, or no numbers
    T largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; ++i) largest = std::abs(x[i]) > largest ? std::abs(x[i]) : largest;
    const T step = std::max(length / longest, largest / LARGEST), inverse = any ? 1 / step : 0;
    T error = 0;
    for (int64_t start = 0; start < n; start += PART) {
        const int64_t count = n - start < PART ? n - start : PART;
        int32_t whole[PART] = {};
#pragma omp simd reduction(+ : error)
        for (int64_t i = 0; i < count; ++i) {
            const T steps = any ? x[start + i] * inverse : 0;
            whole[i] = static_cast<int32_t>(steps + (steps < 0 ? T(-0.5) : T(0.5)));
            error += (steps - whole[i]) * (steps - whole[i]);
        }
        for (int64_t i = 0; i < count; i += 2)
            out[(start + i) / 2 * apart] = (whole[i] & 0xffff) | whole[i + 1] * 0x10000;
    }
    return {step, length, step * std::sqrt(error)};
}

// As `dot`, four sums side by side: one alone waits for itself.
inline T long_dot(const T* a, const T* b, int64_t n) {
    Vector sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * VECTOR <= n; i += 4 * VECTOR)
        for (int j = 0; j < 4; ++j) sums[j] += load(a + i + j * VECTOR) * load(b + i + j * VECTOR);
    const Vector all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    T sum = dot(a + i, b + i, n - i);
    for (int64_t j = 0; j < VECTOR; ++j) sum += all[j];
    return sum;
}

template <int ROWS>
inline void pair_block(int64_t pairs, const int32_t* x, const int32_t* panel, const T* step,
                       const T* word_step, const T* bias, int64_t width, int64_t stride, T* out) {
    Ints sums[ROWS][2] = {};
    for (int64_t k = 0; k < pairs; ++k) {
        const Ints* column = reinterpret_cast<const Ints*>(panel + k * WORDS);
        const Ints left = column[0], right = column[1];
        for (int row = 0; row < ROWS; ++row) {
            const Ints number = Ints{} + x[k * ROWS + row];
            sums[row][0] = add_pairs(sums[row][0], number, left);
            sums[row][1] = add_pairs(sums[row][1], number, right);
        }
    }
    for (int row = 0; row < ROWS; ++row) {
        int32_t line[WORDS];
        std::memcpy(line, sums[row], sizeof line);
        T* to = out + row * stride;
        const auto write = [&](int64_t count) {
#pragma omp simd
            for (int64_t j = 0; j < count; ++j)
                to[j] = line[j] * (step[row] * word_step[j]) + bias[j];
        };
        width == WORDS ? write(WORDS) : write(width);
    }
}

constexpr decltype(&pair_block<1>) PAIR_BLOCKS[] = {
    nullptr, pair_block<1>, pair_block<2>, pair_block<3>, pair_block<4>, pair_block<5>,
    pair_block<BLOCK>};

// A row's logits as the integers gave them, off by no more than `radius` times a word's length,
// and what they were made of.
struct Row {
    const T* logits;
    int64_t words;
    const T* length;
    T radius;
    const T* x;
    int64_t inner;

    // Write the strongest words; return log sum exp. Of each block of words one is certainly as
    // large as the largest of what they are at least, so that `count` words reach the limit; a
    // word that cannot reach it is not one of the strongest.
    T strongest(int64_t count, const T* weight, const T* bias, int64_t* ids, T* values) const {
        const int64_t blocks = (words + RANKED - 1) / RANKED;
        T *least = scratch<T, 1>(2 * blocks), *most = least + blocks, top = -INFINITY;
        T sum = read(least, most, &top);
        std::nth_element(least, least + count - 1, least + blocks, std::greater<T>());
        const T limit = least[count - 1];
        int64_t found = 0;
        for (int64_t b = 0; b < blocks; ++b) {
            if (!(most[b] >= limit)) continue;
            const int64_t stop = end_of(b);
            for (int64_t w = b * RANKED; w < stop; ++w) {
                if (!(logits[w] + radius * length[w] >= limit)) continue;
                const T right = long_dot(x, weight + w * inner, inner) + bias[w];
                sum += exp_of(right - top) - exp_of(logits[w] - top);
                found = insert(w, right, found, count, ids, values);
            }
        }
        for (; found < count; ++found)  // none is a number
            ids[found] = found, values[found] = NAN;
        return top + std::log(sum);
    }

    int64_t end_of(int64_t block) const {
        return words - block * RANKED < RANKED ? words : (block + 1) * RANKED;
    }

    // Note of each block the largest of what its logits are at least, and at most; return the sum
    // of exp(logit - top).
    T read(T* least, T* most, T* top) const {
        T sum = 0;
        for (int64_t b = 0; b * RANKED < words; ++b) {
            const int64_t stop = end_of(b);
            T low = -INFINITY, high = -INFINITY;
#pragma omp simd reduction(max : low, high)
            for (int64_t w = b * RANKED; w < stop; ++w) {
                const T off = radius * length[w];
                low = logits[w] - off > low ? logits[w] - off : low;
                high = logits[w] + off > high ? logits[w] + off : high;
            }
            least[b] = low, most[b] = high;
            if (high > *top) {
                sum *= exp_of(*top - high);
                *top = high;
            }
            const T from = *top;
#pragma omp simd reduction(+ : sum)
            for (int64_t w = b * RANKED; w < stop; ++w) sum += exp_of(logits[w] - from);
        }
        return sum;
    }
};

}  // namespace

extern "C" {

// Whether this processor takes less time for pairs of 16-bit numbers than for single ones of 32.
void int16_pays(int64_t* answer) {
#if defined(__AVX512VNNI__) || (defined(__AVX2__) && !defined(__AVX512F__))
    *answer = sizeof(T) == sizeof(float);
#else
    *answer = 0;
#endif
}

// A weight (words, inner) as panels of pairs; `panels` are 0 where nothing is written, and there
// is room for WORDS more. Of each word what a step is worth, its length, and the share of it that
// rounding took.
void shorten_words(int64_t words, int64_t inner, const T* weight, int32_t* panels, T* step,
                   T* length, T* rounded) {
    const int64_t pairs = (inner + 1) / 2;
#pragma omp parallel for schedule(static) num_threads(team())
    for (int64_t w = 0; w < words; ++w) {
        int32_t* out = panels + w / WORDS * WORDS * pairs + w % WORDS;
        const Short made = shorten(weight + w * inner, inner, LONGEST_WORD, WORDS, out);
        step[w] = made.step, length[w] = made.length;
        rounded[w] = made.length > 0 ? made.error / made.length : 0;
    }
}

// Of x (rows, inner) times a weight that `shorten_words` has read, plus a bias: of each row the
// `count` strongest words, best first, of equals the first, with their logits, and log sum exp of
// all. There must be `count` blocks of RANKED words. `rounded` is the largest share of a word's
// length that rounding took.
void strong_words(int64_t rows, int64_t inner, int64_t words, int64_t count, const T* x,
                  const T* weight, const T* bias, const int32_t* panels, const T* word_step,
                  const T* length, T rounded, int64_t* ids, T* values, T* normaliser) {
    const int64_t pairs = (inner + 1) / 2, stride = (words + LINE - 1) / LINE * LINE;
    const int64_t most = rows < TILE ? rows : TILE;
    int32_t* numbers = scratch<int32_t>(most * pairs);
    T* logits = scratch<T>(most * (stride + 2) + LINE);
    T *step = logits + most * stride, *radius = step + most;
    for (int64_t top = 0; top < rows; top += TILE) {
        const int64_t stop = rows - top < TILE ? rows - top : TILE;
#pragma omp parallel if (stop * words > LINE * LINE) num_threads(team())
        {
#pragma omp for schedule(static)
            for (int64_t row = 0; row < stop; ++row) {
                const int64_t first = row / BLOCK * BLOCK;
                const int64_t side = stop - first < BLOCK ? stop - first : BLOCK;
                const Short made = shorten(x + (top + row) * inner, inner, LONGEST_ROW, side,
                                           numbers + first * pairs + row - first);
                step[row] = made.step;
                // By Cauchy and Schwarz; the last share is for rounding in sums of the type.
                radius[row] = made.error + (made.length + made.error) * rounded +
                              T(1e-5) * made.length;
            }
#pragma omp for schedule(static)
            for (int64_t left = 0; left < words; left += WORDS) {
                const int32_t *panel = panels + left * pairs, *next = panel + WORDS * pairs;
                const int64_t width = words - left < WORDS ? words - left : WORDS;
                const int64_t share = WORDS * pairs / ((stop + BLOCK - 1) / BLOCK) + LINES;
                for (int64_t row = 0; row < stop; row += BLOCK) {
                    const int64_t side = stop - row < BLOCK ? stop - row : BLOCK;
                    if (stop > 3 * BLOCK)  // see Tile
                        for (int64_t k = 0; k < share; k += LINES, next += LINES)
                            __builtin_prefetch(next);
                    PAIR_BLOCKS[side](pairs, numbers + row * pairs, panel, step + row,
                                      word_step + left, bias + left, width, stride,
                                      logits + row * stride + left);
                }
            }
#pragma omp for schedule(static)
            for (int64_t row = 0; row < stop; ++row) {
                const Row read = {logits + row * stride, words, length, radius[row],
                                  x + (top + row) * inner, inner};
                const int64_t at = (top + row) * count;
                normaliser[top + row] = read.strongest(count, weight, bias, ids + at, values + at);
            }
        }
    }
}

}  // extern "C"
