// Logits: their loss, and the strongest of them.

namespace {

constexpr int64_t RANKED = 64;  // words that share one maximum on the way to the strongest

// Put a word among the `found` strongest of at most `count`, best first, of equals the first that
// came; return how many there are now.
inline int64_t insert(int64_t word, T logit, int64_t found, int64_t count, int64_t* ids,
                      T* values) {
    if (found == count && !(logit > values[count - 1])) return found;
    const int64_t now = found < count ? found + 1 : count;
    int64_t place = now - 1;
    for (; place > 0 && logit > values[place - 1]; --place) {
        values[place] = values[place - 1];
        ids[place] = ids[place - 1];
    }
    values[place] = logit, ids[place] = word;
    return now;
}

}  // namespace

extern "C" {

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

// Probabilities become the gradient of the logits.
void cross_entropy_backward(int64_t rows, int64_t words, int64_t stride, T* logits,
                            const int64_t* target, T smoothing, const T* grad_loss) {
#pragma omp parallel for schedule(static) num_threads(team())
    for (int64_t row = 0; row < rows; ++row) {
        T* p = logits + row * stride;
        const T by = grad_loss[row], less = smoothing / words;
#pragma omp simd
        for (int64_t w = 0; w < words; ++w) p[w] = by * (p[w] - less);
        p[target[row]] -= by * (T(1) - smoothing);
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
            for (int64_t w = start; w < stop; ++w)
                found = insert(w, x[w], found, count, id, value);
        }
    }
}

}  // extern "C"
