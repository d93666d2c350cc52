/* Products of a few rows and a few outputs: NR rows by NC outputs, over some of the columns. */
#pragma once

#include "rows.h"

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
