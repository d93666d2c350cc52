/* Choosing from logits. */
#pragma once

#include "threads.h"

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
