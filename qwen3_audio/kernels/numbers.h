/* Vectors, bfloat16, sums and exponentials. */
#pragma once

#include <math.h>
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

static int smaller(int a, int b) { return a < b ? a : b; }
static int larger(int a, int b) { return a > b ? a : b; }

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
