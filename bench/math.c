/* SPDX-License-Identifier: MIT */
/*
 * Arithmetic programs of the benchmark. Linked statically, so that libm is the same everywhere.
 *
 *   math matrix N     product of two N x N matrices of doubles
 *   math libm N       N rounds of sin, cos, exp, log, pow, sqrt, atan2
 *   math fft N        N complex FFTs of 2^14 points
 *   math chase N      N million dependent loads over 32 MiB
 *   math vm N         N million instructions of a small interpreter (indirect jumps)
 *
 * Each prints a checksum, so that a wrong result is seen: bench/run compares it with the native
 * one.
 */
#include <complex.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed = 88172645463325252u;

static uint64_t draw(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static double draw_double(void)
{
	return (double)(draw() >> 11) / 9007199254740992.0;
}

static double matrix(long n)
{
	size_t size = (size_t)n;
	double *a = malloc(size * size * sizeof(*a)), *b = malloc(size * size * sizeof(*b));
	double *c = calloc(size * size, sizeof(*c)), sum = 0;

	if (!a || !b || !c)
		return -1;
	for (size_t i = 0; i < size * size; i++)
		a[i] = draw_double(), b[i] = draw_double();
	for (size_t i = 0; i < size; i++)
		for (size_t k = 0; k < size; k++)
			for (size_t j = 0; j < size; j++)
				c[i * size + j] += a[i * size + k] * b[k * size + j];
	for (size_t i = 0; i < size * size; i++)
		sum += c[i];
	return sum;
}

static double libm(long n)
{
	double sum = 0;

	for (long i = 1; i <= n; i++) {
		double x = (double)i / (double)n * 6;

		sum += sin(x) * cos(x) + exp(-x) + log(x + 1) + pow(x, 1.7) + sqrt(x) + atan2(x, 2);
	}
	return sum;
}

enum { FFT = 1 << 14 };

static void fft(double complex *v)
{
	for (unsigned i = 1, j = 0; i < FFT; i++) {
		unsigned bit = FFT >> 1;

		for (; j & bit; bit >>= 1)
			j ^= bit;
		j ^= bit;
		if (i < j) {
			double complex t = v[i];

			v[i] = v[j];
			v[j] = t;
		}
	}
	for (unsigned length = 2; length <= FFT; length *= 2) {
		double complex step = cexp(-2 * 3.14159265358979323846 * I / length);

		for (unsigned i = 0; i < FFT; i += length) {
			double complex w = 1;

			for (unsigned j = 0; j < length / 2; j++) {
				double complex t = v[i + j + length / 2] * w;

				v[i + j + length / 2] = v[i + j] - t;
				v[i + j] += t;
				w *= step;
			}
		}
	}
}

static double ffts(long n)
{
	static double complex v[FFT];
	double sum = 0;

	for (unsigned i = 0; i < FFT; i++)
		v[i] = draw_double();
	for (long i = 0; i < n; i++) {
		fft(v);
		for (unsigned k = 0; k < FFT; k++) {
			v[k] /= 128; /* keeps the energy */
			sum += cabs(v[k]);
		}
	}
	return sum;
}

static double chase(long millions)
{
	size_t count = (32u << 20) / sizeof(uint32_t);
	uint32_t *next = malloc(count * sizeof(*next)), at = 0;

	if (!next)
		return -1;
	for (size_t i = 0; i < count; i++)
		next[i] = (uint32_t)i;
	for (size_t i = count - 1; i > 0; i--) { /* Sattolo: one cycle */
		size_t j = draw() % i;
		uint32_t t = next[i];

		next[i] = next[j];
		next[j] = t;
	}
	for (long i = 0; i < millions * 1000000; i++)
		at = next[at];
	return at;
}

static double interpreter(long millions)
{
	static const void *const actions[] = { &&add,  &&sub,   &&xor,  &&shift,
					       &&load, &&store, &&skip, &&multiply };
	static uint8_t program[4096];
	static uint64_t memory[256];
	uint64_t a = 1, b = 2, left = (uint64_t)millions * 1000000;
	unsigned pc = 0;

	for (size_t i = 0; i < sizeof(program); i++)
		program[i] = draw() % 8;
#define NEXT                                                                                       \
	do {                                                                                       \
		if (!--left)                                                                       \
			return (double)(a >> 16) + (double)(b >> 16);                              \
		pc = (pc + 1) % sizeof(program);                                                   \
		goto *actions[program[pc]];                                                        \
	} while (0)
	NEXT;
add:
	a += b + pc;
	NEXT;
sub:
	b -= a;
	NEXT;
	xor : a ^= b >> 3;
	NEXT;
shift:
	b = b << 7 | b >> 57;
	NEXT;
load:
	a += memory[b & 255];
	NEXT;
store:
	memory[a & 255] = b;
	NEXT;
skip:
	pc += a & 3;
	NEXT;
multiply:
	a *= 0x9e3779b97f4a7c15u;
	NEXT;
}

int main(int argc, char **argv)
{
	long n = argc == 3 ? atol(argv[2]) : 0;
	double result;

	if (n <= 0)
		return 2;
	if (!strcmp(argv[1], "matrix"))
		result = matrix(n);
	else if (!strcmp(argv[1], "libm"))
		result = libm(n);
	else if (!strcmp(argv[1], "fft"))
		result = ffts(n);
	else if (!strcmp(argv[1], "chase"))
		result = chase(n);
	else if (!strcmp(argv[1], "vm"))
		result = interpreter(n);
	else
		return 2;
	printf("%s %ld: %.17g\n", argv[1], n, result);
	return 0;
}
