// Products of some rows with a weight that stays as it is, at the speed of the processor's units.

namespace {

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

// Memory that a thread keeps, one for each PURPOSE: what malloc maps anew costs a fault for every
// page. It begins with a line of the caches.
template <class Number, int PURPOSE = 0>
Number* scratch(int64_t count) {
    constexpr uintptr_t BYTES = 64;
    static thread_local std::vector<Number> kept;
    const size_t room = count + BYTES / sizeof(Number);
    if (kept.size() < room) kept.resize(room);
    const uintptr_t start = reinterpret_cast<uintptr_t>(kept.data());
    return reinterpret_cast<Number*>((start + BYTES - 1) / BYTES * BYTES);
}

}  // namespace

extern "C" {

// A weight (inner, outer), whose numbers lie inner_step and outer_step apart, as panels of PANEL
// columns: all of a panel's first row, of its second, ... Missing columns are 0: nobody reads
// their sums, but what malloc left there could be slow to compute with.
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
    T* shared = many ? nullptr : scratch<T>(room);
#pragma omp parallel if (rows * outer > LINE * LINE) num_threads(team())
    {
        T* own = many ? scratch<T>(room) : shared;
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

}  // extern "C"
