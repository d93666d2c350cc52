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
#include "attention.h"
#include "logits.h"
#include "products.h"

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
