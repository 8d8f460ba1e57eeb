// The loops of the decoder's steps and of its vocabulary loss.
//
// `regard.native.cpp_library` joins these files and compiles them for the
// machine that it runs on, with REAL = float and, where float64 is asked for, with REAL = double.
// Rows are independent of each other, and sums over rows are left to the caller, so that results do
// not depend on the number of threads.

#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

using T = REAL;

namespace {

thread_local int asked = 0;  // threads, see below
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

// exp(-2 x) is a number of the type while |x| <= BOUND. A larger x (or NaN) is kept as a code, which
// is negative: -x if x > 0, else x times 2^64, so that no digit is lost. Example in float:
// 50 -> -50, -50 -> -9.2e20, and 3 -> exp(-6).
constexpr T BOUND = sizeof(T) == sizeof(float) ? T(43) : T(350);
constexpr T LARGEST_CODED = T(1LL << 60), FACTOR = T(18446744073709551616.0);
inline bool within(T x) { return std::abs(x) <= BOUND; }
inline T coded_of(T x) {
    const T kept = x > LARGEST_CODED ? LARGEST_CODED : (x < -LARGEST_CODED ? -LARGEST_CODED : x);
    return kept < 0 ? kept * FACTOR : -kept;
}
inline T decoded(T code) { return code < T(-4) * LARGEST_CODED ? code / FACTOR : -code; }

// exp(-2 (k + q)) of two numbers that `exponentials` has read; CODED: either may be a code. The rest
// is multiplied in two halves: exp(-2 q) alone may leave the type where the product does not.
template <bool CODED>
inline T exp_of_sum(T key, T query) {
    if (!CODED) return key * query;
    const T both = (key > 0 ? key : T(1)) * (query > 0 ? query : T(1));
    const T rest = (key > 0 ? T(0) : decoded(key)) + (query > 0 ? T(0) : decoded(query));
    const T half = exp_of(-rest);
    return both * half * half;
}

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

}  // namespace

extern "C" {

// exp(-2 x) of n numbers, or their codes; `coded` (one number) says whether there are codes.
void exponentials(int64_t n, const T* x, T* out, int64_t* coded) {
    int any = 0;
#pragma omp parallel for schedule(static) num_threads(team()) reduction(| : any)
    for (int64_t start = 0; start < n; start += 4096) {
        const int64_t stop = start + 4096 < n ? start + 4096 : n;
        int far = 0;
#pragma omp simd reduction(| : far)
        for (int64_t i = start; i < stop; ++i) far |= !within(x[i]);
        any |= far;
        if (!far) {
#pragma omp simd
            for (int64_t i = start; i < stop; ++i) out[i] = exp_of(T(-2) * x[i]);
        } else {
            for (int64_t i = start; i < stop; ++i)
                out[i] = within(x[i]) ? exp_of(T(-2) * x[i]) : coded_of(x[i]);
        }
    }
    *coded = any;
}

// How many threads the loops take that this thread calls; 0: as many as OpenMP gives it.
void threads(int64_t count) { asked = static_cast<int>(count); }

}  // extern "C"
