/* A matrix times rows, in the order that suits the caches, and shared out to threads. */
#pragma once

#include "threads.h"
#include "tiles.h"

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
