/* A pool of threads that do the same task side by side. */
#pragma once

#include "numbers.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

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

static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }
