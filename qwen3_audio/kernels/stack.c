/* One step of a Qwen3 decoder stack for a few rows, on all cores the process may use.
 *
 * Activations are float32. Weights are float32, bfloat16 (exact: widened, multiplied in float32) or
 * int8 (a scale for each output channel, activations quantised with a scale for each row).
 * Threads run the whole stack side by side, in four phases a layer. Which thread computes a number
 * never changes the number, and a row's numbers do not depend on the other rows.
 *
 * Letters: R rows, D hidden, H query heads, K key/value heads, E head size, F feed-forward size.
 */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

/* GCC's and clang's vectors: the compiler cuts them to what the processor has. */
typedef float Floats __attribute__((vector_size(64), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(64), aligned(2)));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2)));
typedef float Four __attribute__((vector_size(16), aligned(4)));
enum { LANES = 16 };
#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };
/* Rows of a prompt for bfloat16 weights, rounded to bfloat16 as torch's products round them. */
enum { ROUNDED = 3 };
/* Weights stream from memory: AHEAD columns on, they are asked for (measured: 1.4 to 2 times). */
enum { AHEAD = 8 };

typedef struct {
    const void *data;    /* [out, in] */
    const float *scale;  /* int8: [out] */
    const int32_t *sum;  /* int8: sum of each output channel's weights [out] */
    const float *bias;   /* [out] or NULL */
    int32_t type, out, in;
} Matrix;

typedef struct {
    Matrix qkv, o, gate_up, down;
    const float *input_norm, *q_norm, *k_norm, *mlp_norm;
} Layer;

typedef struct {
    int32_t num_layers, hidden, heads, kv_heads, head_dim, inner;
    float epsilon;
    const float *norm;
    const Layer *layers;
} Stack;

/* Positions lie in pages; a page holds all layers, and of each layer one head after the other, so that
 * what a head reads lies together. */
typedef struct {
    void *k, *v;                 /* [pages, layers, K, page_positions, E] */
    int64_t page_stride, layer_stride; /* elements */
    int32_t page_positions, type; /* FLOAT32 or BFLOAT16 */
    const int64_t *pages;        /* [R, ...]: the pages of each row's sequence, in order */
    int64_t pages_stride;
    const int32_t *lengths;      /* [R] how many positions a row sees; the last one is its own */
    int32_t is_prompt;           /* rows that follow each other are mostly of one sequence */
} Cache;

static int smaller(int a, int b) { return a < b ? a : b; }
static int larger(int a, int b) { return a > b ? a : b; }

/* ---- numbers ---------------------------------------------------------------------------------- */

static inline float widen(uint16_t x) {
    union { uint32_t i; float f; } u = {.i = (uint32_t)x << 16};
    return u.f;
}

static inline uint16_t narrow(float x) { /* round to nearest even, as torch does */
    union { float f; uint32_t i; } u = {.f = x};
    if ((u.i & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return (uint16_t)((u.i + 0x7fff + ((u.i >> 16) & 1)) >> 16);
}

static inline Floats widen_all(const uint16_t *x) {
#if defined(__AVX512F__) /* GCC widens in two halves */
    __m256i halves = _mm256_loadu_si256((const void *)x);
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
#else
    return (Floats)(__builtin_convertvector(*(const Halves *)x, Words) << 16);
#endif
}

/* The sum of the lanes, always in this order: a number must not depend on how many are added up at
 * once. */
static inline float add_up(Floats x) {
    float quarter[4];
    for (int i = 0; i < 4; i++)
        quarter[i] = (x[4 * i] + x[4 * i + 2]) + (x[4 * i + 1] + x[4 * i + 3]);
    return (quarter[0] + quarter[1]) + (quarter[2] + quarter[3]);
}

static inline Four add_up_4(Floats a, Floats b, Floats c, Floats d) {
#if defined(__AVX512F__)
    __m512 left = _mm512_add_ps(_mm512_unpacklo_ps((__m512)a, (__m512)b),
                                _mm512_unpackhi_ps((__m512)a, (__m512)b));
    __m512 right = _mm512_add_ps(_mm512_unpacklo_ps((__m512)c, (__m512)d),
                                 _mm512_unpackhi_ps((__m512)c, (__m512)d));
    __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(left), _mm512_castps_pd(right));
    __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(left), _mm512_castps_pd(right));
    __m512 quarters = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    __m128 first = _mm_add_ps(_mm512_castps512_ps128(quarters), _mm512_extractf32x4_ps(quarters, 1));
    __m128 second = _mm_add_ps(_mm512_extractf32x4_ps(quarters, 2),
                               _mm512_extractf32x4_ps(quarters, 3));
    return (Four)_mm_add_ps(first, second);
#else
    return (Four){add_up(a), add_up(b), add_up(c), add_up(d)};
#endif
}

static float dot(const float *a, const float *b, int size) {
    Floats sums = {0};
    int i = 0;
    for (; i + LANES <= size; i += LANES) sums += *(const Floats *)(a + i) * *(const Floats *)(b + i);
    float sum = add_up(sums);
    for (; i < size; i++) sum += a[i] * b[i];
    return sum;
}

static inline Floats pick(Ints mask, Floats yes, Floats no) {
    return (Floats)(((Ints)yes & mask) | ((Ints)no & ~mask));
}

/* e^x by 2^n times a polynomial (Cephes' coefficients); 2e-7 relative. */
static inline Floats exponential(Floats x) {
    const Floats zero = {0}, lowest = zero - 87.0f, highest = zero + 88.0f, half = zero + 0.5f;
    x = pick(x < lowest, lowest, x);
    x = pick(x > highest, highest, x);
    Ints n = __builtin_convertvector(x * 1.44269504f + pick(x < zero, -half, half), Ints);
    Floats whole = __builtin_convertvector(n, Floats);
    Floats f = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats p = zero + 1.9875691500e-4f;
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    return p * (Floats)((n + 127) << 23);
}

static float largest_size(const float *x, int size) {
    Floats peaks = {0};
    int i = 0;
    for (; i + LANES <= size; i += LANES) {
        Floats sizes = (Floats)(*(const Ints *)(x + i) & 0x7fffffff);
        peaks = pick(sizes > peaks, sizes, peaks);
    }
    float peak = 0;
    for (int j = 0; j < LANES; j++) peak = peaks[j] > peak ? peaks[j] : peak;
    for (; i < size; i++) peak = fabsf(x[i]) > peak ? fabsf(x[i]) : peak;
    return peak;
}

static void normalise(const float *x, const float *weight, float *y, int size, float epsilon) {
    float sum = dot(x, x, size);
    float scale = 1.0f / sqrtf(sum / (float)size + epsilon);
    for (int i = 0; i < size; i++) y[i] = x[i] * scale * weight[i];
}

/* Rows as the matrix kernel of a type wants them: bfloat16 takes even columns, then odd ones;
 * int8 takes unsigned bytes around 128 and a scale for each row. */
typedef struct {
    const float *rows;  /* FLOAT32 */
    float *split;       /* BFLOAT16: [R, 2, in / 2] */
    uint16_t *halves;   /* ROUNDED: [R, in] */
    uint8_t *bytes;     /* INT8: [R, in] */
    float *scale;       /* INT8: [R] */
    int32_t num_rows, in, type;
    int32_t from, to;   /* the columns that are multiplied now */
} Rows;

/* Whether the processor multiplies such rows itself; without it other libraries are faster. */
int multiplies_rounded(void) {
#if defined(__AVX512BF16__)
    return 1;
#else
    return 0;
#endif
}

/* The type of rows for a matrix. */
static int type_of_rows(const Matrix *m, int is_prompt) {
    return is_prompt && m->type == BFLOAT16 && m->in % 32 == 0 ? ROUNDED : m->type;
}

static void round_row(const float *row, uint16_t *halves, int size) {
#if defined(__AVX512BF16__)
    for (int i = 0; i < size; i += LANES)
        _mm256_storeu_si256((void *)(halves + i),
                            (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(row + i)));
#else
    for (int i = 0; i < size; i++) halves[i] = narrow(row[i]);
#endif
}

static void prepare(Rows *rows, const float *x, int num_rows, int in, int type) {
    rows->rows = x;
    rows->num_rows = num_rows;
    rows->in = in;
    rows->type = type;
    rows->from = 0;
    rows->to = in;
    for (int r = 0; r < num_rows; r++) {
        const float *row = x + (size_t)r * in;
        if (type == BFLOAT16) {
            float *even = rows->split + (size_t)r * in, *odd = even + in / 2;
            for (int i = 0; i < in / 2; i++) {
                even[i] = row[2 * i];
                odd[i] = row[2 * i + 1];
            }
        } else if (type == ROUNDED) {
            round_row(row, rows->halves + (size_t)r * in, in);
        } else if (type == INT8) {
            float peak = largest_size(row, in);
            float scale = peak > 0 ? peak / 127.0f : 1.0f, inverse = 1.0f / scale;
            uint8_t *bytes = rows->bytes + (size_t)r * in;
            for (int i = 0; i < in; i++) bytes[i] = (uint8_t)(int)(rintf(row[i] * inverse) + 128.0f);
            rows->scale[r] = scale;
        }
    }
}

/* ---- matrix products: a block of output columns for a block of rows --------------------------- */

#define DEFINE_BF16(NR, NC)                                                                        \
    static inline void bf16_##NR##x##NC(const Matrix *m, int column, const Rows *x, int row,       \
                                        float out[NR][NC]) {                                       \
        int half = m->in / 2, i = x->from / 2, end = x->to / 2;                                    \
        const uint16_t *w = (const uint16_t *)m->data + (size_t)column * m->in;                    \
        Floats sum[NR][NC] = {0};                                                                  \
        for (; i + LANES <= end; i += LANES) {                                                     \
            Floats even[NC], odd[NC];                                                              \
            for (int c = 0; c < NC; c++) {                                                         \
                __builtin_prefetch(w + (size_t)(c + AHEAD) * m->in + 2 * i);                       \
                Words pairs = *(const Words *)(w + (size_t)c * m->in + 2 * i);                     \
                even[c] = (Floats)(pairs << 16);                                                   \
                odd[c] = (Floats)(pairs & 0xffff0000u);                                            \
            }                                                                                      \
            for (int r = 0; r < NR; r++) {                                                         \
                const float *at = x->split + (size_t)(row + r) * m->in + i;                        \
                Floats x_even = *(const Floats *)at, x_odd = *(const Floats *)(at + half);         \
                for (int c = 0; c < NC; c++) {                                                     \
                    sum[r][c] += even[c] * x_even;                                                 \
                    sum[r][c] += odd[c] * x_odd;                                                   \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        for (int r = 0; r < NR; r++)                                                               \
            for (int c = 0; c < NC; c++) {                                                         \
                const float *at = x->split + (size_t)(row + r) * m->in;                            \
                const uint16_t *wc = w + (size_t)c * m->in;                                        \
                float tail = add_up(sum[r][c]);                                                    \
                for (int j = i; j < end; j++)                                                      \
                    tail += widen(wc[2 * j]) * at[j] + widen(wc[2 * j + 1]) * at[half + j];        \
                out[r][c] = tail;                                                                  \
            }                                                                                      \
    }

#if defined(__AVX512VNNI__)
#define DEFINE_INT8_AS(NAME, NR, NC)                                                               \
    static inline void NAME(const Matrix *m, int column, const Rows *x, int row,                   \
                                        float out[NR][NC]) {                                       \
        const int8_t *w = (const int8_t *)m->data + (size_t)column * m->in;                        \
        __m512i sum[NR][NC];                                                                       \
        for (int r = 0; r < NR; r++)                                                               \
            for (int c = 0; c < NC; c++) sum[r][c] = _mm512_setzero_si512();                       \
        int i = 0;                                                                                 \
        for (; i + 64 <= m->in; i += 64) {                                                         \
            __m512i wide[NC];                                                                      \
            for (int c = 0; c < NC; c++) {                                                         \
                __builtin_prefetch(w + (size_t)(c + AHEAD) * m->in + i);                           \
                wide[c] = _mm512_loadu_si512(w + (size_t)c * m->in + i);                           \
            }                                                                                      \
            for (int r = 0; r < NR; r++) {                                                         \
                __m512i bytes = _mm512_loadu_si512(x->bytes + (size_t)(row + r) * m->in + i);      \
                for (int c = 0; c < NC; c++)                                                       \
                    sum[r][c] = _mm512_dpbusd_epi32(sum[r][c], bytes, wide[c]);                    \
            }                                                                                      \
        }                                                                                          \
        for (int r = 0; r < NR; r++)                                                               \
            for (int c = 0; c < NC; c++) {                                                         \
                int32_t dot = _mm512_reduce_add_epi32(sum[r][c]);                                  \
                const uint8_t *bytes = x->bytes + (size_t)(row + r) * m->in;                       \
                for (int j = i; j < m->in; j++) dot += (int)bytes[j] * w[(size_t)c * m->in + j];   \
                dot -= 128 * m->sum[column + c];                                                   \
                out[r][c] = (float)dot * x->scale[row + r] * m->scale[column + c];                 \
            }                                                                                      \
    }
#else
#define DEFINE_INT8_AS(NAME, NR, NC)                                                               \
    static inline void NAME(const Matrix *m, int column, const Rows *x, int row,                   \
                                        float out[NR][NC]) {                                       \
        for (int c = 0; c < NC; c++) {                                                             \
            const int8_t *w = (const int8_t *)m->data + (size_t)(column + c) * m->in;              \
            for (int r = 0; r < NR; r++) {                                                         \
                const uint8_t *bytes = x->bytes + (size_t)(row + r) * m->in;                       \
                int32_t dot = 0;                                                                   \
                for (int i = 0; i < m->in; i++) dot += (int)bytes[i] * w[i];                       \
                dot -= 128 * m->sum[column + c];                                                   \
                out[r][c] = (float)dot * x->scale[row + r] * m->scale[column + c];                 \
            }                                                                                      \
        }                                                                                          \
    }
#endif

#define DEFINE_FLOAT(NR, NC)                                                                       \
    static inline void float_##NR##x##NC(const Matrix *m, int column, const Rows *x, int row,      \
                                         float out[NR][NC]) {                                      \
        int i = x->from;                                                                           \
        const float *w = (const float *)m->data + (size_t)column * m->in;                          \
        Floats sum[NR][NC] = {0};                                                                  \
        for (; i + LANES <= x->to; i += LANES)                                                     \
            for (int c = 0; c < NC; c++) {                                                         \
                __builtin_prefetch(w + (size_t)(c + AHEAD) * m->in + i);                           \
                Floats wide = *(const Floats *)(w + (size_t)c * m->in + i);                        \
                for (int r = 0; r < NR; r++)                                                       \
                    sum[r][c] += wide * *(const Floats *)(x->rows + (size_t)(row + r) * m->in + i);\
            }                                                                                      \
        for (int r = 0; r < NR; r++)                                                               \
            for (int c = 0; c < NC; c++) {                                                         \
                out[r][c] = add_up(sum[r][c]);                                                     \
                for (int j = i; j < x->to; j++)                                                    \
                    out[r][c] += w[(size_t)c * m->in + j] *                                        \
                                 x->rows[(size_t)(row + r) * m->in + j];                           \
            }                                                                                      \
    }

#define DEFINE_SMALL(KIND) KIND(4, 1) KIND(1, 8) KIND(1, 4) KIND(1, 1)
DEFINE_SMALL(DEFINE_BF16)
DEFINE_SMALL(DEFINE_FLOAT)
DEFINE_FLOAT(4, 4)
#define DEFINE_INT8(NR, NC) DEFINE_INT8_AS(int8_##NR##x##NC, NR, NC)
DEFINE_SMALL(DEFINE_INT8)

/* Sixteen sums under names of their own: GCC keeps names in registers, arrays it copies to and fro. */
#define EACH_IN_ROW(DO, r) DO(r, 0) DO(r, 1) DO(r, 2) DO(r, 3)
#define EACH(DO) EACH_IN_ROW(DO, 0) EACH_IN_ROW(DO, 1) EACH_IN_ROW(DO, 2) EACH_IN_ROW(DO, 3)
/* In a register: GCC would load it again for each sum. */
#if defined(__AVX512F__)
#define KEEP(x) __asm__("" : "+v"(x));
#else
#define KEEP(x)
#endif
#define FLOATS_ZERO(r, c) Floats s##r##c = {0};
#define ROW_SUM(r) *(Four *)out[r] = add_up_4(s##r##0, s##r##1, s##r##2, s##r##3);

/* The weights of the columns to come, asked for once: by the first rows. */
static inline void ask_ahead(const void *w, size_t row_bytes, size_t at) {
    for (int c = 0; c < 4; c++)
        __builtin_prefetch((const char *)w + (size_t)(c + AHEAD) * row_bytes + at);
}

static void bf16_4x4(const Matrix *m, int column, const Rows *x, int row, float out[4][4]) {
    size_t in = (size_t)m->in, half = in / 2, i = (size_t)x->from / 2, end = (size_t)x->to / 2;
    const uint16_t *w = (const uint16_t *)m->data + (size_t)column * in;
    const float *split = x->split + (size_t)row * in;
    EACH(FLOATS_ZERO)
    for (; i + LANES <= end; i += LANES) {
        if (row == 0) ask_ahead(w, 2 * in, 4 * i);
#define WIDEN(c)                                                                                   \
    Words pairs##c = *(const Words *)(w + c * in + 2 * i);                                         \
    Floats even##c = (Floats)(pairs##c << 16), odd##c = (Floats)(pairs##c & 0xffff0000u);
#define ADD_BF16(r, c) s##r##c += even##c * x_even; s##r##c += odd##c * x_odd;
#define ADD_BF16_ROW(r)                                                                            \
    {                                                                                              \
        Floats x_even = *(const Floats *)(split + r * in + i);                                     \
        Floats x_odd = *(const Floats *)(split + r * in + half + i);                               \
        KEEP(x_even) KEEP(x_odd)                                                                   \
        EACH_IN_ROW(ADD_BF16, r)                                                                   \
    }
        WIDEN(0) WIDEN(1) WIDEN(2) WIDEN(3)
        ADD_BF16_ROW(0) ADD_BF16_ROW(1) ADD_BF16_ROW(2) ADD_BF16_ROW(3)
    }
    ROW_SUM(0) ROW_SUM(1) ROW_SUM(2) ROW_SUM(3)
    for (; i < end; i++)
        for (int r = 0; r < 4; r++)
            for (int c = 0; c < 4; c++)
                out[r][c] += widen(w[c * in + 2 * i]) * split[r * in + i] +
                             widen(w[c * in + 2 * i + 1]) * split[r * in + half + i];
}

#if defined(__AVX512VNNI__)
DEFINE_INT8_AS(int8_any_4x4, 4, 4)

/* Of four vectors a, b, c, d: in each quarter the sums of theirs. */
static inline __m512i add_up_quarters(__m512i a, __m512i b, __m512i c, __m512i d) {
    __m512i left = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i right = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(left, right), _mm512_unpackhi_epi64(left, right));
}

/* Quarter r of the result: the sum of row r's quarters. */
static inline __m512i add_up_rows(__m512i a, __m512i b, __m512i c, __m512i d) {
    enum { EVEN = 0x88, ODD = 0xdd }; /* quarters 0, 2 and 1, 3 of both */
    __m512i first = _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, EVEN),
                                     _mm512_shuffle_i32x4(a, b, ODD));
    __m512i second = _mm512_add_epi32(_mm512_shuffle_i32x4(c, d, EVEN),
                                      _mm512_shuffle_i32x4(c, d, ODD));
    return _mm512_add_epi32(_mm512_shuffle_i32x4(first, second, EVEN),
                            _mm512_shuffle_i32x4(first, second, ODD));
}

static void int8_4x4(const Matrix *m, int column, const Rows *x, int row, float out[4][4]) {
    size_t in = (size_t)m->in;
    if (in % 64 != 0) {
        int8_any_4x4(m, column, x, row, out);
        return;
    }
    const int8_t *w = (const int8_t *)m->data + (size_t)column * in;
    const uint8_t *bytes = x->bytes + (size_t)row * in;
#define INTS_ZERO(r, c) __m512i s##r##c = _mm512_setzero_si512();
    EACH(INTS_ZERO)
    for (size_t i = 0; i < in; i += 64) {
        if (row == 0) ask_ahead(w, in, i);
#define LOAD_INT8(c) __m512i w##c = _mm512_loadu_si512(w + c * in + i);
/* GCC 12 copies the sum before and after its own _mm512_dpbusd_epi32: 371 instead of 538 GMAC/s. */
#define ADD_INT8(r, c) __asm__("vpdpbusd %2, %1, %0" : "+v"(s##r##c) : "v"(some), "v"(w##c));
#define ADD_INT8_ROW(r)                                                                            \
    {                                                                                              \
        __m512i some = _mm512_loadu_si512(bytes + r * in + i);                                     \
        EACH_IN_ROW(ADD_INT8, r)                                                                   \
    }
        LOAD_INT8(0) LOAD_INT8(1) LOAD_INT8(2) LOAD_INT8(3)
        ADD_INT8_ROW(0) ADD_INT8_ROW(1) ADD_INT8_ROW(2) ADD_INT8_ROW(3)
    }
#define ROW_QUARTERS(r) add_up_quarters(s##r##0, s##r##1, s##r##2, s##r##3)
    __m512i all = add_up_rows(ROW_QUARTERS(0), ROW_QUARTERS(1), ROW_QUARTERS(2), ROW_QUARTERS(3));
    const __m512i to_row = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    __m512i sums = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)(m->sum + column)));
    __m512i dots = _mm512_sub_epi32(all, _mm512_slli_epi32(sums, 7));
    __m512 row_scale = _mm512_permutexvar_ps(
        to_row, _mm512_castps128_ps512(_mm_loadu_ps(x->scale + row)));
    __m512 scale = _mm512_broadcast_f32x4(_mm_loadu_ps(m->scale + column));
    _mm512_storeu_ps(&out[0][0],
                     _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dots), row_scale), scale));
}
#else
DEFINE_INT8(4, 4)
#endif

#if defined(__AVX512BF16__)
#define DEFINE_ROUNDED(NR, NC)                                                                     \
    static inline void rounded_##NR##x##NC(const Matrix *m, int column, const Rows *x, int row,    \
                                           float out[NR][NC]) {                                    \
        size_t in = (size_t)m->in;                                                                 \
        const uint16_t *w = (const uint16_t *)m->data + (size_t)column * in;                       \
        const uint16_t *halves = x->halves + (size_t)row * in;                                     \
        Floats sum[NR][NC] = {0};                                                                  \
        for (size_t i = x->from; i < (size_t)x->to; i += 32) {                                     \
            __m512bh wide[NC];                                                                     \
            for (int c = 0; c < NC; c++) {                                                         \
                if (row == 0) __builtin_prefetch(w + (size_t)(c + AHEAD) * in + i);                \
                wide[c] = (__m512bh)_mm512_loadu_si512(w + (size_t)c * in + i);                    \
            }                                                                                      \
            for (int r = 0; r < NR; r++) {                                                         \
                __m512bh some = (__m512bh)_mm512_loadu_si512(halves + (size_t)r * in + i);         \
                for (int c = 0; c < NC; c++)                                                       \
                    sum[r][c] = (Floats)_mm512_dpbf16_ps((__m512)sum[r][c], some, wide[c]);        \
            }                                                                                      \
        }                                                                                          \
        for (int r = 0; r < NR; r++)                                                               \
            for (int c = 0; c < NC; c++) out[r][c] = add_up(sum[r][c]);                            \
    }

static void rounded_4x4(const Matrix *m, int column, const Rows *x, int row, float out[4][4]) {
    size_t in = (size_t)m->in;
    const uint16_t *w = (const uint16_t *)m->data + (size_t)column * in;
    const uint16_t *halves = x->halves + (size_t)row * in;
    EACH(FLOATS_ZERO)
    for (size_t i = (size_t)x->from; i < (size_t)x->to; i += 32) {
        if (row == 0) ask_ahead(w, 2 * in, 2 * i);
#define LOAD_HALVES(c) __m512bh w##c = (__m512bh)_mm512_loadu_si512(w + c * in + i);
#define ADD_HALVES(r, c) __asm__("vdpbf16ps %2, %1, %0" : "+v"(s##r##c) : "v"(some), "v"(w##c));
#define ADD_HALVES_ROW(r)                                                                          \
    {                                                                                              \
        __m512bh some = (__m512bh)_mm512_loadu_si512(halves + r * in + i);                         \
        EACH_IN_ROW(ADD_HALVES, r)                                                                 \
    }
        LOAD_HALVES(0) LOAD_HALVES(1) LOAD_HALVES(2) LOAD_HALVES(3)
        ADD_HALVES_ROW(0) ADD_HALVES_ROW(1) ADD_HALVES_ROW(2) ADD_HALVES_ROW(3)
    }
    ROW_SUM(0) ROW_SUM(1) ROW_SUM(2) ROW_SUM(3)
}
#else
#define DEFINE_ROUNDED(NR, NC)                                                                     \
    static inline void rounded_##NR##x##NC(const Matrix *m, int column, const Rows *x, int row,    \
                                           float out[NR][NC]) {                                    \
        for (int c = 0; c < NC; c++) {                                                             \
            const uint16_t *w = (const uint16_t *)m->data + (size_t)(column + c) * m->in;          \
            for (int r = 0; r < NR; r++) {                                                         \
                const uint16_t *halves = x->halves + (size_t)(row + r) * m->in;                    \
                out[r][c] = 0;                                                                     \
                for (int i = x->from; i < x->to; i++)                                              \
                    out[r][c] += widen(halves[i]) * widen(w[i]);                                   \
            }                                                                                      \
        }                                                                                          \
    }
DEFINE_ROUNDED(4, 4)
#endif
DEFINE_SMALL(DEFINE_ROUNDED)

/* A row of a block; four numbers, as most blocks have, go at once. */
ALWAYS_INLINE void put(float *to, const float *values, const float *bias, int count, int adds) {
    for (int i = 0; i + 4 <= count; i += 4) {
        Four some = *(const Four *)(values + i);
        if (bias != NULL) some += *(const Four *)(bias + i);
        if (adds) some += *(const Four *)(to + i);
        *(Four *)(to + i) = some;
    }
    for (int i = count / 4 * 4; i < count; i++) {
        float value = values[i] + (bias ? bias[i] : 0.0f);
        to[i] = adds ? to[i] + value : value;
    }
}

#define DISPATCH(NR, NC)                                                                           \
    do {                                                                                           \
        float block[NR][NC];                                                                       \
        if (x->type == BFLOAT16) bf16_##NR##x##NC(m, c, x, r, block);                              \
        else if (x->type == ROUNDED) rounded_##NR##x##NC(m, c, x, r, block);                                    \
        else if (x->type == INT8) int8_##NR##x##NC(m, c, x, r, block);                             \
        else float_##NR##x##NC(m, c, x, r, block);                                                 \
        for (int i = 0; i < NR; i++)                                                               \
            put(y + (size_t)(r + i) * y_stride + c - first_column, block[i],                       \
                m->bias && x->from == 0 ? m->bias + c : NULL, NC, adds);                           \
        r += NR;                                                                                   \
    } while (0)

enum { FIRST_CACHE = 24 << 10, AT_A_TIME = 1024 }; /* bytes: about half of it; columns */

/* So many rows stay in the first cache while columns of weights pass by. */
static int rows_at_once(const Rows *x) {
    int bytes = x->type == INT8 ? 1 : x->type == ROUNDED ? 2 : 4;
    return larger(FIRST_CACHE / (bytes * (x->to - x->from)) / 4 * 4, 4);
}

/* Outputs [begin, end) for all rows, from some of the columns. */
static void multiply_some(const Matrix *m, const Rows *x, int begin, int end, float *y,
                          int y_stride, int first_column, int adds) {
    int has_few_rows = x->num_rows < 4, block = has_few_rows ? 8 : 4, at_once = rows_at_once(x);
    for (int from = 0; from < x->num_rows; from += at_once) {
        int to = smaller(from + at_once, x->num_rows), c = begin;
        for (; c + block <= end; c += block) {
            int r = from;
            if (has_few_rows)
                while (r < to) DISPATCH(1, 8);
            while (r + 4 <= to) DISPATCH(4, 4);
            while (r < to) DISPATCH(1, 4);
        }
        for (; c < end; c++) {
            int r = from;
            while (r + 4 <= to) DISPATCH(4, 1);
            while (r < to) DISPATCH(1, 1);
        }
    }
}

/* Outputs [begin, end) for all rows; y's column 0 is first_column of the matrix. Long rows are
 * multiplied AT_A_TIME columns after the other, alone as in a batch, so that the bits are equal. */
static void multiply(const Matrix *m, const Rows *x, int begin, int end, float *y, int y_stride,
                     int first_column, int adds) {
    int step = x->type == INT8 ? m->in : AT_A_TIME; /* int8 rows are short, and added up exactly */
    int width = x->num_rows < 4 ? 8 : end - begin;  /* few rows: weights pass by but once */
    for (int c = begin; c < end; c += width)
        for (int from = 0; from < m->in; from += step) {
            Rows some = *x;
            some.from = from;
            some.to = smaller(from + step, m->in);
            multiply_some(m, &some, c, smaller(c + width, end), y, y_stride, first_column,
                          adds || from > 0);
        }
}

/* ---- threads ---------------------------------------------------------------------------------- */

/* Work is cut into phases and each phase into chunks. Whoever is free claims the next chunk, and a
 * phase is over when its chunks are done: a thread that the system has put to sleep delays nobody
 * unless it holds a chunk, so a busy machine costs little. */
typedef struct {
    atomic_int next, done;
} Phase;

typedef struct Pool Pool;
typedef struct {
    Pool *pool;
    pthread_t thread;
    char *scratch;
    size_t scratch_bytes;
} Worker;

enum { MAX_PHASES = 1024, CLOSED = 1 << 20 };

struct Pool {
    int num_threads;
    Worker *workers;
    void (*task)(Worker *, void *);
    void *argument;
    Phase phases[MAX_PHASES];
    atomic_int entered; /* threads in the task; with CLOSED, nobody may enter any more */
    atomic_int left;
    atomic_uint generation;
    atomic_int is_closing;
    atomic_int lent; /* so many of the last threads leave their cores to somebody else */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
};

enum { SPINS_BEFORE_YIELD = 1000, SPINS_BEFORE_SLEEP = 100000 };

static inline void pause_briefly(unsigned spins) {
    if (spins % SPINS_BEFORE_YIELD == SPINS_BEFORE_YIELD - 1) sched_yield();
#if defined(__x86_64__)
    else __builtin_ia32_pause();
#endif
}

/* The next chunk of a phase, or -1. */
static inline int claim(Phase *phase, int num_chunks) {
    if (atomic_load_explicit(&phase->next, memory_order_relaxed) >= num_chunks) return -1;
    int chunk = atomic_fetch_add_explicit(&phase->next, 1, memory_order_relaxed);
    return chunk < num_chunks ? chunk : -1;
}

static inline void finish_chunk(Phase *phase) {
    atomic_fetch_add_explicit(&phase->done, 1, memory_order_release);
}

static inline void await(Phase *phase, int num_chunks) {
    for (unsigned spins = 0;
         atomic_load_explicit(&phase->done, memory_order_acquire) < num_chunks; spins++)
        pause_briefly(spins);
}

static inline int is_lent(const Worker *worker) {
    const Pool *pool = worker->pool;
    return worker - pool->workers >= pool->num_threads - atomic_load(&pool->lent);
}

static inline int has_work(const Worker *worker, unsigned seen) {
    Pool *pool = worker->pool;
    if (atomic_load_explicit(&pool->generation, memory_order_acquire) == seen) return 0;
    return atomic_load(&pool->is_closing) || !is_lent(worker);
}

static void *work(void *argument) {
    Worker *worker = argument;
    Pool *pool = worker->pool;
    unsigned seen = 0;
    for (;;) {
        unsigned spins = 0;
        while (!has_work(worker, seen)) {
            if (++spins < SPINS_BEFORE_SLEEP && !is_lent(worker)) {
                pause_briefly(spins);
                continue;
            }
            pthread_mutex_lock(&pool->mutex);
            while (!has_work(worker, seen)) pthread_cond_wait(&pool->wake, &pool->mutex);
            pthread_mutex_unlock(&pool->mutex);
        }
        seen = atomic_load(&pool->generation);
        if (atomic_load(&pool->is_closing)) return NULL;
        if (atomic_fetch_add(&pool->entered, 1) & CLOSED) continue;
        pool->task(worker, pool->argument);
        atomic_fetch_add_explicit(&pool->left, 1, memory_order_release);
    }
}

static void run(Pool *pool, void (*task)(Worker *, void *), void *argument, int num_phases) {
    memset(pool->phases, 0, (size_t)num_phases * sizeof(Phase));
    pool->task = task;
    pool->argument = argument;
    atomic_store(&pool->left, 0);
    atomic_store(&pool->entered, 0);
    if (pool->num_threads - atomic_load(&pool->lent) > 1) {
        pthread_mutex_lock(&pool->mutex);
        atomic_fetch_add_explicit(&pool->generation, 1, memory_order_release);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
    task(&pool->workers[0], argument);
    int entered = atomic_fetch_or(&pool->entered, CLOSED);
    for (unsigned spins = 0;
         atomic_load_explicit(&pool->left, memory_order_acquire) < entered; spins++)
        pause_briefly(spins);
}

Pool *pool_open(int num_threads) {
    Pool *pool = calloc(1, sizeof(Pool));
    pool->num_threads = num_threads;
    pool->workers = calloc((size_t)num_threads, sizeof(Worker));
    atomic_store(&pool->entered, CLOSED);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    for (int i = 0; i < num_threads; i++) {
        pool->workers[i].pool = pool;
        if (i > 0 && pthread_create(&pool->workers[i].thread, NULL, work, &pool->workers[i]) != 0) {
            pool->num_threads = i; /* fewer threads are slower, not wrong */
            break;
        }
    }
    return pool;
}

void pool_lend(Pool *pool, int num_threads) { atomic_fetch_add(&pool->lent, num_threads); }

void pool_close(Pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->is_closing, 1);
    atomic_fetch_add(&pool->generation, 1);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 1; i < pool->num_threads; i++) pthread_join(pool->workers[i].thread, NULL);
    for (int i = 0; i < pool->num_threads; i++) free(pool->workers[i].scratch);
    free(pool->workers);
    free(pool);
}

static char *scratch(Worker *worker, size_t bytes) {
    if (worker->scratch_bytes < bytes) {
        free(worker->scratch);
        if (posix_memalign((void **)&worker->scratch, 64, bytes) != 0) abort();
        worker->scratch_bytes = bytes;
    }
    return worker->scratch;
}

/* ---- memory of a thread ----------------------------------------------------------------------- */

static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

static size_t rows_bytes(int num_rows, int in) {
    return aligned((size_t)num_rows * sizeof(float)) +
           aligned((size_t)num_rows * (size_t)in * sizeof(float));
}

static Rows rows_in(char *memory, int num_rows) {
    Rows rows = {.scale = (float *)memory};
    memory += aligned((size_t)num_rows * sizeof(float));
    rows.split = (float *)memory;
    rows.halves = (uint16_t *)memory;
    rows.bytes = (uint8_t *)memory;
    return rows;
}

/* ---- one matrix ------------------------------------------------------------------------------- */

enum { CHUNK = 64 }; /* outputs */

static int num_chunks(int count) { return (count + CHUNK - 1) / CHUNK; }

/* All outputs of a matrix, shared out by chunks. */
static void share_product(Phase *phase, const Matrix *m, Rows *rows, const float *x, int num_rows,
                          int is_prompt, float *y, int adds) {
    int count = num_chunks(m->out), is_prepared = 0, type = type_of_rows(m, is_prompt);
    for (int chunk; (chunk = claim(phase, count)) >= 0; finish_chunk(phase)) {
        if (!is_prepared) prepare(rows, x, num_rows, m->in, type);
        is_prepared = 1;
        multiply(m, rows, chunk * CHUNK, smaller(m->out, (chunk + 1) * CHUNK), y, m->out, 0, adds);
    }
    await(phase, count);
}

typedef struct {
    const Matrix *matrix;
    const float *x;
    float *y;
    int num_rows;
} Product;

static void product_task(Worker *worker, void *argument) {
    const Product *p = argument;
    Rows rows = rows_in(scratch(worker, rows_bytes(p->num_rows, p->matrix->in)), p->num_rows);
    share_product(worker->pool->phases, p->matrix, &rows, p->x, p->num_rows, 0, p->y, 0);
}

void matrix_multiply(Pool *pool, const Matrix *m, const float *x, float *y, int num_rows) {
    Product product = {m, x, y, num_rows};
    run(pool, product_task, &product, 1);
}

/* ---- the stack -------------------------------------------------------------------------------- */

typedef struct {
    const Stack *stack;
    const Cache *cache;
    float *x;               /* [R, D] in and out: hidden states before the final norm */
    const float *cos, *sin; /* [R, E] */
    float *out;             /* [R, D] after the final norm */
    const Matrix *head;     /* or NULL */
    float *logits;          /* [R, head->out] */
    float *attended, *acted; /* shared between threads: [R, H * E], [R, F] */
    int num_rows;
} Step;

static int is_prompt(const Step *step) { return step->cache->is_prompt; }

/* Whether the next row is the next position of the same sequence. */
static int goes_on(const Step *step, int row) {
    const Cache *cache = step->cache;
    const int64_t *pages = cache->pages + (int64_t)row * cache->pages_stride;
    return row + 1 < step->num_rows && pages[0] == pages[cache->pages_stride] &&
           cache->lengths[row + 1] == cache->lengths[row] + 1;
}

static void rotate(float *x, const float *cos, const float *sin, int size) {
    int half = size / 2;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[half + i];
        x[i] = a * cos[i] - b * sin[i];
        x[half + i] = b * cos[half + i] + a * sin[half + i];
    }
}

/* ---- attention -------------------------------------------------------------------------------- */

/* LANES numbers of a key or value, or one. */
static inline Floats some_of(const void *of, int type, int64_t at) {
    return type == BFLOAT16 ? widen_all((const uint16_t *)of + at)
                            : *(const Floats *)((const float *)of + at);
}

static inline float one_of(const void *of, int type, int64_t at) {
    return type == BFLOAT16 ? widen(((const uint16_t *)of)[at]) : ((const float *)of)[at];
}

static void store(const Cache *cache, void *base, int64_t at, const float *x, int size) {
    if (cache->type == BFLOAT16)
        for (int i = 0; i < size; i++) ((uint16_t *)base)[at + i] = narrow(x[i]);
    else
        memcpy((float *)base + at, x, (size_t)size * sizeof(float));
}

/* Where a key/value head of a row's sequence has its position. */
static int64_t place_of(const Cache *cache, int layer, int kv_head, int row, int position, int size) {
    int held = cache->page_positions;
    int64_t page = cache->pages[(int64_t)row * cache->pages_stride + position / held];
    return page * cache->page_stride + (int64_t)layer * cache->layer_stride +
           ((int64_t)kv_head * held + position % held) * size;
}

enum { BLOCK = 4, MOST_QUERIES = 4, AT_ONCE = 4 }; /* positions, queries, vectors of a value */

/* Queries that see the same keys: the heads of a group, of one row or of two that follow. */
typedef struct {
    const float *q[MOST_QUERIES];
    float *out[MOST_QUERIES];
    int lengths[MOST_QUERIES]; /* what each of them sees */
    int row, longest;
    float *scores; /* [queries, stride] */
    int stride;
} Queries;

/* Scores of `count` positions that lie one behind the other, at most BLOCK. */
ALWAYS_INLINE void score_block(const Queries *of, const void *keys, int type, int64_t at, int size,
                               int position, int num_queries, int count) {
    Floats sums[MOST_QUERIES][BLOCK] = {0};
    int e = 0;
    for (; e + LANES <= size; e += LANES)
        for (int p = 0; p < count; p++) {
            Floats key = some_of(keys, type, at + p * size + e);
            for (int n = 0; n < num_queries; n++)
                sums[n][p] += *(const Floats *)(of->q[n] + e) * key;
        }
    for (int n = 0; n < num_queries; n++) {
        float *scores = of->scores + n * of->stride + position, totals[BLOCK];
        if (count == BLOCK)
            *(Four *)totals = add_up_4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]);
        else
            for (int p = 0; p < count; p++) totals[p] = add_up(sums[n][p]);
        for (int p = 0; p < count; p++) {
            for (int i = e; i < size; i++)
                totals[p] += of->q[n][i] * one_of(keys, type, at + p * size + i);
            scores[p] = totals[p];
        }
    }
}

/* `width` vectors of the weighted sums of values, from element `first` on. */
ALWAYS_INLINE void mix_block(const Queries *of, const Cache *cache, int type, int layer,
                             int kv_head, int size, int first, int num_queries, int width) {
    Floats sums[MOST_QUERIES][2 * AT_ONCE] = {0};
    int held = cache->page_positions;
    for (int start = 0; start < of->longest; start += held) {
        int64_t at = place_of(cache, layer, kv_head, of->row, start, size) + first;
        int end = smaller(held, of->longest - start);
        for (int p = 0; p < end; p++, at += size)
            for (int t = 0; t < width; t++) {
                Floats value = some_of(cache->v, type, at + t * LANES);
                for (int n = 0; n < num_queries; n++)
                    sums[n][t] += of->scores[n * of->stride + start + p] * value;
            }
    }
    for (int n = 0; n < num_queries; n++)
        for (int t = 0; t < width; t++) *(Floats *)(of->out[n] + first + t * LANES) = sums[n][t];
}

/* Scores become weights: softmax over what a query sees, 0 beyond. */
static void weigh(float *scores, int length, int stride, float scale) {
    float peak = -INFINITY, total = 0;
    for (int i = 0; i < length; i++) peak = scores[i] > peak ? scores[i] : peak;
    for (int i = length; i % LANES != 0; i++) scores[i] = peak;
    for (int i = 0; i < length; i += LANES) {
        Floats *some = (Floats *)(scores + i);
        *some = exponential((*some - peak) * scale);
    }
    for (int i = 0; i < length; i++) total += scores[i];
    for (int i = 0; i < length; i++) scores[i] /= total;
    for (int i = length; i < stride; i++) scores[i] = 0;
}

ALWAYS_INLINE void attend_as(const Stack *s, const Cache *cache, int layer, int kv_head,
                             const Queries *of, int num_queries, int type) {
    int size = s->head_dim, held = cache->page_positions, e = 0;
    for (int start = 0; start < of->longest; start += held) {
        int64_t at = place_of(cache, layer, kv_head, of->row, start, size);
        int end = smaller(held, of->longest - start), p = 0;
        for (; p + BLOCK <= end; p += BLOCK)
            score_block(of, cache->k, type, at + p * size, size, start + p, num_queries, BLOCK);
        for (; p < end; p++)
            score_block(of, cache->k, type, at + p * size, size, start + p, num_queries, 1);
    }
    for (int n = 0; n < num_queries; n++)
        weigh(of->scores + n * of->stride, of->lengths[n], of->stride, 1.0f / sqrtf((float)size));
    int wide = num_queries < MOST_QUERIES ? 2 * AT_ONCE : AT_ONCE; /* so many stay in registers */
    for (; e + wide * LANES <= size; e += wide * LANES)
        mix_block(of, cache, type, layer, kv_head, size, e, num_queries, wide);
    for (; e + LANES <= size; e += LANES)
        mix_block(of, cache, type, layer, kv_head, size, e, num_queries, 1);
    for (; e < size; e++)
        for (int n = 0; n < num_queries; n++) {
            float sum = 0;
            for (int i = 0; i < of->lengths[n]; i++)
                sum += of->scores[n * of->stride + i] *
                       one_of(cache->v, type, place_of(cache, layer, kv_head, of->row, i, size) + e);
            of->out[n][e] = sum;
        }
}

static void attend(const Stack *s, const Cache *cache, int layer, int kv_head, const Queries *of,
                   int num_queries) {
    int is_small = cache->type == BFLOAT16;
#define ATTEND_AS(COUNT)                                                                           \
    if (is_small) attend_as(s, cache, layer, kv_head, of, COUNT, BFLOAT16);                        \
    else attend_as(s, cache, layer, kv_head, of, COUNT, FLOAT32)
    if (num_queries == 4) { ATTEND_AS(4); }
    else if (num_queries == 2) { ATTEND_AS(2); }
    else { ATTEND_AS(1); }
}

/* All heads of a group for all rows. q: [R, width], a row's heads at its beginning. A query's numbers
 * do not depend on those that share its keys: beyond its own length its weights are 0. */
static void attend_rows(const Step *step, int layer, int group, const float *q, int width,
                        float *scores) {
    const Stack *s = step->stack;
    const Cache *cache = step->cache;
    int size = s->head_dim, per_group = s->heads / s->kv_heads, together = 1;
    for (int r = 0; r < step->num_rows; r += together) {
        int is_pair = is_prompt(step) && per_group % 2 == 0 && goes_on(step, r);
        together = is_pair ? 2 : 1;
        int longest = cache->lengths[r + together - 1];
        Queries of = {.row = r, .longest = longest, .scores = scores};
        of.stride = (longest + LANES - 1) / LANES * LANES;
        int num_heads = per_group % 2 == 0 ? 2 : 1, num_queries = num_heads * together;
        for (int h = 0; h < per_group; h += num_heads) {
            for (int n = 0; n < num_queries; n++) {
                int row = r + n / num_heads, head = h + n % num_heads;
                of.q[n] = q + (size_t)row * width + head * size;
                of.out[n] = step->attended +
                            ((size_t)row * s->heads + group * per_group + head) * size;
                of.lengths[n] = cache->lengths[row];
            }
            attend(s, cache, layer, group, &of, num_queries);
        }
    }
}

/* Projections, cache and attention of one group of heads that share a key/value head. */
static void attend_group(const Step *step, const Layer *layer, int index, int group,
                         const Rows *rows, float *qkv, float *scores) {
    const Stack *s = step->stack;
    int size = s->head_dim, per_group = s->heads / s->kv_heads;
    int width = (per_group + 2) * size, q_width = per_group * size;
    int first_k = (s->heads + group) * size, first_v = first_k + s->kv_heads * size;
    multiply(&layer->qkv, rows, group * q_width, (group + 1) * q_width, qkv, width,
             group * q_width, 0);
    multiply(&layer->qkv, rows, first_k, first_k + size, qkv + q_width, width, first_k, 0);
    multiply(&layer->qkv, rows, first_v, first_v + size, qkv + q_width + size, width, first_v, 0);
    for (int r = 0; r < step->num_rows; r++) {
        float *row = qkv + (size_t)r * width, *k = row + q_width;
        const float *cos = step->cos + (size_t)r * size, *sin = step->sin + (size_t)r * size;
        for (int h = 0; h < per_group; h++) {
            normalise(row + h * size, layer->q_norm, row + h * size, size, s->epsilon);
            rotate(row + h * size, cos, sin, size);
        }
        normalise(k, layer->k_norm, k, size, s->epsilon);
        rotate(k, cos, sin, size);
        int64_t at = place_of(step->cache, index, group, r, step->cache->lengths[r] - 1, size);
        store(step->cache, step->cache->k, at, k, size);
        store(step->cache, step->cache->v, at, k + size, size);
    }
    attend_rows(step, index, group, qkv, width, scores);
}

/* Outputs [begin, end) of the gated feed-forward's inner layer. */
static void feed_forward(const Step *step, const Layer *layer, const Rows *rows, int begin, int end,
                         float *gate_up) {
    int inner = step->stack->inner, width = end - begin;
    multiply(&layer->gate_up, rows, begin, end, gate_up, 2 * width, begin, 0);
    multiply(&layer->gate_up, rows, inner + begin, inner + end, gate_up + width, 2 * width,
             inner + begin, 0);
    for (int r = 0; r < step->num_rows; r++) {
        const float *gate = gate_up + (size_t)r * 2 * width, *up = gate + width;
        float *acted = step->acted + (size_t)r * inner + begin;
        int i = 0;
        for (; i + LANES <= width; i += LANES) {
            Floats g = *(const Floats *)(gate + i), u = *(const Floats *)(up + i);
            *(Floats *)(acted + i) = g / (1.0f + exponential(-g)) * u;
        }
        for (; i < width; i++) acted[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
}

static void normalise_rows(const Step *step, const float *weight, float *out) {
    int size = step->stack->hidden;
    for (int r = 0; r < step->num_rows; r++)
        normalise(step->x + (size_t)r * size, weight, out + (size_t)r * size, size,
                  step->stack->epsilon);
}

static int longest(const Step *step) {
    int length = 1;
    for (int r = 0; r < step->num_rows; r++) length = larger(length, step->cache->lengths[r]);
    return length;
}

/* What a thread needs for itself. */
typedef struct {
    Rows rows;
    float *normed; /* [R, D] */
    float *local;  /* [R, what one chunk makes] */
    float *scores;
} Desk;

static Desk desk_of(Worker *worker, const Step *step) {
    const Stack *s = step->stack;
    int num_rows = step->num_rows, per_group = s->heads / s->kv_heads;
    int widest = larger(larger(s->hidden, s->inner), s->heads * s->head_dim);
    int local = larger(2 * CHUNK, (per_group + 2) * s->head_dim);
    size_t rows = rows_bytes(num_rows, widest);
    size_t normed = aligned((size_t)num_rows * (size_t)s->hidden * sizeof(float));
    size_t locals = aligned((size_t)num_rows * (size_t)local * sizeof(float));
    size_t scores = aligned(MOST_QUERIES * ((size_t)longest(step) + LANES) * sizeof(float));
    char *memory = scratch(worker, rows + normed + locals + scores);
    return (Desk){rows_in(memory, num_rows), (float *)(memory + rows),
                  (float *)(memory + rows + normed), (float *)(memory + rows + normed + locals)};
}

static void attention_phase(Phase *phase, const Step *step, int index, Desk *desk) {
    const Stack *s = step->stack;
    const Layer *layer = &s->layers[index];
    int is_prepared = 0;
    for (int group; (group = claim(phase, s->kv_heads)) >= 0; finish_chunk(phase)) {
        if (!is_prepared) {
            normalise_rows(step, layer->input_norm, desk->normed);
            prepare(&desk->rows, desk->normed, step->num_rows, s->hidden,
                    type_of_rows(&layer->qkv, is_prompt(step)));
        }
        is_prepared = 1;
        attend_group(step, layer, index, group, &desk->rows, desk->local, desk->scores);
    }
    await(phase, s->kv_heads);
}

static void feed_forward_phase(Phase *phase, const Step *step, int index, Desk *desk) {
    const Stack *s = step->stack;
    const Layer *layer = &s->layers[index];
    int count = num_chunks(s->inner), is_prepared = 0;
    for (int chunk; (chunk = claim(phase, count)) >= 0; finish_chunk(phase)) {
        if (!is_prepared) {
            normalise_rows(step, layer->mlp_norm, desk->normed);
            prepare(&desk->rows, desk->normed, step->num_rows, s->hidden,
                    type_of_rows(&layer->gate_up, is_prompt(step)));
        }
        is_prepared = 1;
        feed_forward(step, layer, &desk->rows, chunk * CHUNK,
                     smaller(s->inner, (chunk + 1) * CHUNK), desk->local);
    }
    await(phase, count);
}

static void step_task(Worker *worker, void *argument) {
    const Step *step = argument;
    const Stack *s = step->stack;
    Desk desk = desk_of(worker, step);
    Phase *phase = worker->pool->phases;
    for (int i = 0; i < s->num_layers; i++) {
        attention_phase(phase++, step, i, &desk);
        share_product(phase++, &s->layers[i].o, &desk.rows, step->attended, step->num_rows,
                      is_prompt(step), step->x, 1);
        feed_forward_phase(phase++, step, i, &desk);
        share_product(phase++, &s->layers[i].down, &desk.rows, step->acted, step->num_rows,
                      is_prompt(step), step->x, 1);
    }
    normalise_rows(step, s->norm, desk.normed);
    if (worker == worker->pool->workers)
        memcpy(step->out, desk.normed, (size_t)step->num_rows * s->hidden * sizeof(float));
    if (step->head != NULL)
        share_product(phase, step->head, &desk.rows, desk.normed, step->num_rows, 0, step->logits,
                      0);
}

/* Returns 0, or 1 for a stack with more layers than there are phases. */
int stack_step(Pool *pool, const Stack *stack, const Cache *cache, float *x, const float *cos,
               const float *sin, float *out, const Matrix *head, float *logits, float *attended,
               float *acted, int num_rows) {
    Step step = {stack, cache, x, cos, sin, out, head, logits, attended, acted, num_rows};
    int num_phases = 4 * stack->num_layers + 1;
    if (num_phases > MAX_PHASES) return 1;
    run(pool, step_task, &step, num_phases);
    return 0;
}

/* ---- sampling --------------------------------------------------------------------------------- */

/* The twin of engine/sampling.py: splitmix64 keys, Gumbel noise for each candidate. */
static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static float gumbel(uint64_t key, uint64_t id) {
    uint64_t bits = mix(key + (id + 1) * 0x9E3779B97F4A7C15u);
    float uniform = ((float)(bits >> 41) + 0.5f) * 0x1p-23f;
    return -logf(-logf(uniform));
}

typedef struct {
    float value;
    int32_t id;
} Candidate;

static inline int is_below(Candidate a, Candidate b) {
    return a.value < b.value || (a.value == b.value && a.id > b.id);
}

/* heap[0] is the least of `size` candidates; put a greater one in its place. */
static void sift(Candidate *heap, int size, Candidate added) {
    int at = 0;
    for (;;) {
        int child = 2 * at + 1;
        if (child >= size) break;
        if (child + 1 < size && is_below(heap[child + 1], heap[child])) child++;
        if (!is_below(heap[child], added)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = added;
}

static int by_falling_value(const void *a, const void *b) {
    return is_below(*(const Candidate *)a, *(const Candidate *)b) ? 1 : -1;
}

/* How many of the candidates, best first, hold `share` of their probability; at least one. */
static int num_within(Candidate *best, int count, float share) {
    float total = 0, before = 0;
    qsort(best, (size_t)count, sizeof(Candidate), by_falling_value);
    for (int i = 0; i < count; i++) total += expf(best[i].value - best[0].value);
    for (int i = 0; i < count; i++) {
        if (i > 0 && before >= share * total) return i;
        before += expf(best[i].value - best[0].value);
    }
    return count;
}

static inline int is_any(Ints mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#else
    int32_t any = 0;
    for (int i = 0; i < LANES; i++) any |= mask[i];
    return any != 0;
#endif
}

/* The greatest `count` logits as a heap; most of them are passed over LANES at a time. */
static void find_best(const float *logits, int vocab, Candidate *best, int count) {
    for (int i = 0; i < count; i++) best[i] = (Candidate){-INFINITY, INT32_MAX};
    for (int at = 0; at < vocab; at += LANES) {
        int end = smaller(at + LANES, vocab);
        if (end - at == LANES && !is_any(*(const Floats *)(logits + at) > best[0].value)) continue;
        for (int id = at; id < end; id++)
            if (logits[id] > best[0].value) sift(best, count, (Candidate){logits[id], id});
    }
}

static int64_t choose_one(const float *logits, int vocab, int64_t key, float temperature, int top_k,
                          float top_p, Candidate *best) {
    int count = temperature > 0 ? smaller(top_k, vocab) : 1;
    find_best(logits, vocab, best, count);
    if (count == 1) return best[0].id == INT32_MAX ? 0 : best[0].id;
    for (int i = 0; i < count; i++) best[i].value /= temperature;
    if (top_p < 1.0f) count = num_within(best, count, top_p);
    Candidate winner = {-INFINITY, 0};
    for (int i = 0; i < count; i++) {
        if (best[i].id == INT32_MAX) continue; /* fewer ids than top_k are allowed at all */
        Candidate noisy = {best[i].value + gumbel((uint64_t)key, (uint64_t)best[i].id), best[i].id};
        if (is_below(winner, noisy)) winner = noisy;
    }
    return winner.id;
}

/* log(sum(e^x)) */
static float log_sum_one(const float *x, int size) {
    float peak = -INFINITY, total = 0;
    Floats sums = {0};
    int i = 0;
    for (int j = 0; j < size; j++) peak = x[j] > peak ? x[j] : peak;
    for (; i + LANES <= size; i += LANES) sums += exponential(*(const Floats *)(x + i) - peak);
    total = add_up(sums);
    for (; i < size; i++) total += expf(x[i] - peak);
    return peak + logf(total);
}

/* Either of the two for some rows, a row a chunk. */
typedef struct {
    const float *logits;
    int num_rows, vocab;
    const int64_t *keys, *top_k;
    const float *temperature, *top_p;
    int64_t *chosen;  /* or NULL */
    float *log_sums;  /* or NULL */
} LogitRows;

static void logit_task(Worker *worker, void *argument) {
    const LogitRows *of = argument;
    Phase *phase = worker->pool->phases;
    Candidate *best = (Candidate *)scratch(worker, aligned((size_t)of->vocab * sizeof(Candidate)));
    for (int r; (r = claim(phase, of->num_rows)) >= 0; finish_chunk(phase)) {
        const float *logits = of->logits + (size_t)r * of->vocab;
        if (of->chosen != NULL)
            of->chosen[r] = choose_one(logits, of->vocab, of->keys[r], of->temperature[r],
                                       (int)(of->top_k[r] < of->vocab ? of->top_k[r] : of->vocab),
                                       of->top_p[r], best);
        if (of->log_sums != NULL) of->log_sums[r] = log_sum_one(logits, of->vocab);
    }
    await(phase, of->num_rows);
}

static void run_rows(Pool *pool, LogitRows *rows) {
    enum { LITTLE = 1 << 16 }; /* logits that are not worth waking anybody */
    if (rows->num_rows > 1 && (int64_t)rows->num_rows * rows->vocab > LITTLE) {
        run(pool, logit_task, rows, 1);
    } else {
        memset(pool->phases, 0, sizeof(Phase));
        logit_task(&pool->workers[0], rows);
    }
}

void choose_rows(Pool *pool, const float *logits, int num_rows, int vocab, const int64_t *keys,
                 const float *temperature, const int64_t *top_k, const float *top_p, int64_t *out) {
    LogitRows rows = {logits, num_rows, vocab, keys, top_k, temperature, top_p, .chosen = out};
    run_rows(pool, &rows);
}

void log_sum_rows(Pool *pool, const float *logits, int num_rows, int vocab, float *out) {
    LogitRows rows = {.logits = logits, .num_rows = num_rows, .vocab = vocab, .log_sums = out};
    run_rows(pool, &rows);
}
