/* The paged cache of keys and values, and attention over it. */
#pragma once

#include "rows.h"

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

/* Ask for what the page behind this one holds in the same place: LANES numbers after LANES. */
ALWAYS_INLINE void ask_for(const void *of, int type, int64_t at, int count) {
    int bytes = type == BFLOAT16 ? 2 : 4;
    const char *first = (const char *)of + at * bytes;
    for (int i = 0; i < count * bytes; i += 64) __builtin_prefetch(first + i);
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
        int64_t next = start + held < of->longest
                           ? place_of(cache, layer, kv_head, of->row, start + held, size) + first
                           : at;
        for (int p = 0; p < end; p++, at += size) {
            ask_for(cache->v, type, next + p * size, width * LANES);
            for (int t = 0; t < width; t++) {
                Floats value = some_of(cache->v, type, at + t * LANES);
                for (int n = 0; n < num_queries; n++)
                    sums[n][t] += of->scores[n * of->stride + start + p] * value;
            }
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
        int64_t next = start + held < of->longest
                           ? place_of(cache, layer, kv_head, of->row, start + held, size)
                           : at;
        for (; p + BLOCK <= end; p += BLOCK) {
            ask_for(cache->k, type, next + p * size, BLOCK * size);
            score_block(of, cache->k, type, at + p * size, size, start + p, num_queries, BLOCK);
        }
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
