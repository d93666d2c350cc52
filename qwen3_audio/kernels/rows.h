/* Matrices, and rows of activations as the products want them. */
#pragma once

#include "numbers.h"

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
