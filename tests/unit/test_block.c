/* SPDX-License-Identifier: MIT */
/* Disk images: options, errors, locking, raw files and throw-away overlays against a model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/util.h"
#include "block/image.h"
#include "block/pool.h"

static char directory[64];

static char *make_file(const char *name, uint64_t size)
{
	static char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
	return path;
}

static struct block_image *open_spec(const char *spec, struct error *err)
{
	struct block_options options;

	return block_options_parse(&options, spec, err) < 0 ? NULL : block_open(&options, err);
}

static void expect_error(const char *spec, const char *text)
{
	struct error err = { 0 };
	char wanted[512];

	assert_null(open_spec(spec, &err));
	snprintf(wanted, sizeof(wanted), text, directory);
	assert_string_equal(err.text, wanted);
}

static void options_are_parsed(void **state)
{
	struct block_options options;
	struct error err;

	(void)state;
	assert_int_equal(block_options_parse(&options, "a.img,format=raw,snapshot", &err), 0);
	assert_string_equal(options.path, "a.img");
	assert_string_equal(options.format, "raw");
	assert_true(options.snapshot && !options.readonly);
	assert_int_equal(block_options_parse(&options, "a,,b.img,readonly", &err), 0);
	assert_string_equal(options.path, "a,b.img");
	assert_true(options.readonly);
	assert_int_equal(block_options_parse(&options, "a.img,write", &err), -1);
	assert_string_equal(
		err.text,
		"disk 'a.img': unknown option 'write' (known: format=FORMAT, readonly, snapshot)");
	assert_int_equal(block_options_parse(&options, ",readonly", &err), -1);
	assert_int_equal(block_options_parse(&options, "", &err), -1);
	assert_int_equal(block_options_parse(&options, "a.img,format=averyveryverylongname", &err),
			 -1);
}

static void errors_say_what_is_wrong(void **state)
{
	char spec[256];

	(void)state;
	snprintf(spec, sizeof(spec), "%s/none.img", directory);
	expect_error(spec, "cannot open disk '%s/none.img': No such file or directory");
	expect_error(directory, "cannot open disk '%s': it is a directory");
	expect_error(make_file("empty.img", 0), "cannot use disk '%s/empty.img': it is empty");
	expect_error(make_file("short.img", 100),
		     "cannot use disk '%s/short.img': it is shorter than one sector of 512 bytes");
	snprintf(spec, sizeof(spec), "%s,format=qcow9", make_file("a.img", 4096));
	expect_error(spec, "cannot open disk '%s/a.img': unknown format 'qcow9' (known: raw)");
	snprintf(spec, sizeof(spec), "%s/fifo", directory);
	mkfifo(spec, 0600);
	expect_error(spec, "cannot open disk '%s/fifo': it is neither a file nor a block device");
}

static void odd_sizes_are_rounded_down(void **state)
{
	struct error err;
	struct block_image *image = open_spec(make_file("odd.img", 1000), &err);

	(void)state;
	assert_non_null(image);
	assert_int_equal(image->size, 512);
	block_close(image);
}

static void writers_are_alone(void **state)
{
	char *path = make_file("lock.img", 4096), spec[256];
	struct error err;
	struct block_image *first = open_spec(path, &err), *second;

	(void)state;
	assert_non_null(first);
	assert_null(open_spec(path, &err));
	assert_true(strstr(err.text, "lock.img': another machine is using it") != NULL);
	snprintf(spec, sizeof(spec), "%s,snapshot", path);
	assert_null(open_spec(spec, &err));
	block_close(first);
	first = open_spec(spec, &err);
	assert_non_null(first);
	snprintf(spec, sizeof(spec), "%s,readonly", path);
	second = open_spec(spec, &err); /* readers share */
	assert_non_null(second);
	assert_true(second->readonly);
	assert_null(open_spec(path, &err));
	block_close(first);
	block_close(second);
}

/* Random operations on an image and on a copy in memory. */
static void compare_with_model(struct block_image *image, uint8_t *model, unsigned rounds,
			       unsigned seed)
{
	uint64_t sectors = image->size / 512;
	uint8_t buf[64 * 512];

	srand(seed);
	for (unsigned i = 0; i < rounds; i++) {
		uint64_t sector = rand() % sectors, count = 1 + rand() % MIN(64, sectors - sector);
		uint64_t offset = sector * 512, len = count * 512, cut = rand() % (len + 1);
		struct iovec iov[2] = { { buf, cut }, { buf + cut, len - cut } };

		switch (rand() % 6) {
		case 0:
		case 1:
			for (unsigned j = 0; j < len; j++)
				buf[j] = model[offset + j] = rand();
			assert_int_equal(image->ops->writev(image, iov, 2, offset), 0);
			break;
		case 2:
			assert_int_equal(image->ops->write_zeroes(image, offset, len, rand() % 2),
					 0);
			memset(model + offset, 0, len);
			break;
		case 3:
			assert_int_equal(image->ops->flush(image), 0);
			break;
		case 4:
			if (image->ops->try_readv(image, iov, 2, offset) == 0)
				assert_memory_equal(buf, model + offset, len);
			break;
		default:
			assert_int_equal(image->ops->readv(image, iov, 2, offset), 0);
			assert_memory_equal(buf, model + offset, len);
		}
	}
}

static void raw_images_hold_what_is_written(void **state)
{
	uint64_t size = 512 * 1001;
	uint8_t *model = calloc(1, size);
	char *path = make_file("raw.img", size);
	struct error err;
	struct block_image *image = open_spec(path, &err);
	int fd;

	(void)state;
	compare_with_model(image, model, 3000, 1);
	block_close(image);
	uint8_t *file = malloc(size);
	fd = open(path, O_RDONLY);
	assert_int_equal(read(fd, file, size), size);
	assert_memory_equal(file, model, size);
	close(fd);
	free(file);
	free(model);
}

static void overlays_leave_the_base_alone(void **state)
{
	uint64_t size = 512 * 1001; /* the last cluster is partial */
	uint8_t *model = malloc(size), *original = malloc(size), *file = malloc(size);
	char *path = make_file("base.img", size), spec[256];
	int fd = open(path, O_RDWR);
	struct error err;
	struct block_image *image;

	(void)state;
	srand(5);
	for (uint64_t i = 0; i < size; i++)
		original[i] = rand();
	memcpy(model, original, size);
	assert_int_equal(write(fd, original, size), size);
	snprintf(spec, sizeof(spec), "%s,snapshot", path);
	image = open_spec(spec, &err);
	assert_non_null(image);
	assert_false(image->readonly);
	compare_with_model(image, model, 3000, 2);
	block_close(image);
	assert_int_equal(pread(fd, file, size, 0), size);
	assert_memory_equal(file, original, size);
	close(fd);
	free(model);
	free(original);
	free(file);
}

static void huge_disks_cost_little(void **state)
{
	char spec[256];
	struct error err;
	struct block_image *image;
	uint8_t out[512] = "end", in[512];
	struct iovec w = { out, 512 }, r = { in, 512 };

	(void)state;
	snprintf(spec, sizeof(spec), "%s,snapshot", make_file("huge.img", GIB(4096ull)));
	image = open_spec(spec, &err);
	assert_non_null(image);
	assert_int_equal(image->ops->writev(image, &w, 1, image->size - 512), 0);
	assert_int_equal(image->ops->readv(image, &r, 1, image->size - 512), 0);
	assert_memory_equal(in, out, 512);
	assert_int_equal(image->ops->readv(image, &r, 1, image->size - 1024), 0);
	assert_int_equal(in[0], 0);
	block_close(image);
}

/* Threads that each own every fourth sector write partial clusters at once. */
struct writer {
	struct block_image *image;
	unsigned n;
};

static void *write_sectors(void *opaque)
{
	struct writer *w = opaque;
	uint8_t buf[512];
	struct iovec iov = { buf, 512 };

	memset(buf, w->n + 1, sizeof(buf));
	for (uint64_t s = w->n; s < w->image->size / 512; s += 4)
		if (w->image->ops->writev(w->image, &iov, 1, s * 512) < 0)
			return w;
	return NULL;
}

static void overlay_writers_do_not_lose_sectors(void **state)
{
	char spec[256];
	struct error err;
	struct block_image *image;
	struct writer writers[4];
	pthread_t threads[4];
	uint8_t buf[512];
	struct iovec iov = { buf, 512 };

	(void)state;
	snprintf(spec, sizeof(spec), "%s,snapshot", make_file("race.img", MIB(1)));
	image = open_spec(spec, &err);
	assert_non_null(image);
	for (unsigned i = 0; i < 4; i++) {
		writers[i] = (struct writer){ image, i };
		pthread_create(&threads[i], NULL, write_sectors, &writers[i]);
	}
	for (unsigned i = 0; i < 4; i++) {
		void *failed;

		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	for (uint64_t s = 0; s < image->size / 512; s++) {
		assert_int_equal(image->ops->readv(image, &iov, 1, s * 512), 0);
		assert_int_equal(buf[0], s % 4 + 1);
		assert_int_equal(buf[511], s % 4 + 1);
	}
	block_close(image);
}

struct counted_job {
	struct block_job job;
	unsigned *count;
};

static void count_job(struct block_job *job)
{
	__atomic_fetch_add(container_of(job, struct counted_job, job)->count, 1, __ATOMIC_RELAXED);
}

static void the_pool_runs_every_job(void **state)
{
	struct block_pool *pool = block_pool_create(4, NULL);
	struct counted_job jobs[1000];
	unsigned count = 0;

	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		jobs[i] = (struct counted_job){ .job.run = count_job, .count = &count };
		block_pool_submit(pool, &jobs[i].job);
	}
	block_pool_destroy(pool);
	assert_int_equal(count, 1000);
}

static int make_directory(void **state)
{
	(void)state;
	strcpy(directory, "/tmp/lodge-test-block-XXXXXX");
	return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
	static const char *const names[] = { "empty.img", "short.img", "a.img",   "fifo",
					     "odd.img",   "lock.img",  "raw.img", "base.img",
					     "huge.img",  "race.img" };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		char path[128];

		snprintf(path, sizeof(path), "%s/%s", directory, names[i]);
		unlink(path);
	}
	return rmdir(directory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_are_parsed),
		cmocka_unit_test(errors_say_what_is_wrong),
		cmocka_unit_test(odd_sizes_are_rounded_down),
		cmocka_unit_test(writers_are_alone),
		cmocka_unit_test(raw_images_hold_what_is_written),
		cmocka_unit_test(overlays_leave_the_base_alone),
		cmocka_unit_test(huge_disks_cost_little),
		cmocka_unit_test(overlay_writers_do_not_lose_sectors),
		cmocka_unit_test(the_pool_runs_every_job),
	};

	return cmocka_run_group_tests_name("block", tests, make_directory, remove_directory);
}
