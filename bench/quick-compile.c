/* SPDX-License-Identifier: MIT */
/* What the benchmark compiles: reads numbers, sorts them, prints their sum and median. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct list {
	double *items;
	size_t count, capacity;
};

static int append(struct list *list, double item)
{
	if (list->count == list->capacity) {
		size_t capacity = list->capacity ? 2 * list->capacity : 16;
		double *items = realloc(list->items, capacity * sizeof(*items));

		if (!items)
			return -1;
		list->items = items;
		list->capacity = capacity;
	}
	list->items[list->count++] = item;
	return 0;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int read_all(FILE *in, struct list *list)
{
	char line[256];

	while (fgets(line, sizeof(line), in)) {
		char *end;

		errno = 0;
		double item = strtod(line, &end);
		if (errno || end == line || strspn(end, " \t\r\n") != strlen(end)) {
			fprintf(stderr, "not a number: %s", line);
			return -1;
		}
		if (append(list, item))
			return -1;
	}
	return ferror(in) ? -1 : 0;
}

int main(void)
{
	struct list list = { NULL, 0, 0 };
	double sum = 0;

	if (read_all(stdin, &list) || !list.count)
		return 1;
	for (size_t i = 0; i < list.count; i++)
		sum += list.items[i];
	qsort(list.items, list.count, sizeof(*list.items), compare);
	printf("sum %g, median %g\n", sum, list.items[list.count / 2]);
	free(list.items);
	return 0;
}
