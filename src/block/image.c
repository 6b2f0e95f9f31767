/* SPDX-License-Identifier: MIT */
/*
 * Disk images: options, opening, locking, and the table of formats.
 *
 * Locking is by flock(2) on the image itself: exclusive for writers, shared for readers, so two
 * machines never write one disk. A throw-away overlay only reads its base. The lock goes with the
 * descriptor, whatever ends the process.
 */
#include "block/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/util.h"
#include "block/raw.h"

/* In the order they are tried; raw takes anything. */
static const struct block_format *const formats[] = { &raw_format };

/* ---- options ---- */

/* Copy up to the next single comma (",," stands for one) into out; returns where it stopped, or
 * NULL if out is too small. */
static const char *take_word(const char *p, char *out, size_t cap)
{
	size_t n = 0;

	for (; *p; p++) {
		if (*p == ',' && *++p != ',')
			break;
		if (n + 1 >= cap)
			return NULL;
		out[n++] = *p;
	}
	out[n] = '\0';
	return p;
}

int block_options_parse(struct block_options *options, const char *spec, struct error *err)
{
	char word[64];
	const char *p;

	memset(options, 0, sizeof(*options));
	p = take_word(spec, options->path, sizeof(options->path));
	if (!p)
		return error_set(err, 0, "disk '%.40s...': the file name is too long", spec);
	if (!options->path[0])
		return error_set(err, 0, "disk '%s': the file name is missing", spec);
	while (*p) {
		p = take_word(p, word, sizeof(word));
		if (!p)
			return error_set(err, 0, "disk '%s': an option is too long", options->path);
		if (!strcmp(word, "readonly"))
			options->readonly = true;
		else if (!strcmp(word, "snapshot"))
			options->snapshot = true;
		else if (!strncmp(word, "format=", 7) && strlen(word + 7) < sizeof(options->format))
			strcpy(options->format, word + 7);
		else
			return error_set(
				err, 0,
				"disk '%s': unknown option '%s' (known: format=FORMAT, readonly, snapshot)",
				options->path, word);
	}
	return 0;
}

/* ---- opening ---- */

static const struct block_format *find_format(const char *name, int fd)
{
	uint8_t header[512];
	ssize_t len = 0;

	if (!name[0]) {
		len = pread(fd, header, sizeof(header), 0);
		if (len < 0)
			len = 0;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(formats); i++)
		if (name[0] ? !strcmp(formats[i]->name, name) : formats[i]->probe(header, len))
			return formats[i];
	return NULL;
}

static int check_kind(int fd, const char *path, struct error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "cannot open disk '%s'", path);
	if (S_ISDIR(st.st_mode))
		return error_set(err, EISDIR, "cannot open disk '%s': it is a directory", path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return error_set(err, 0,
				 "cannot open disk '%s': it is neither a file nor a block device",
				 path);
	return 0;
}

static int lock_image(int fd, const char *path, bool readonly, struct error *err)
{
	if (flock(fd, (readonly ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0)
		return 0;
	if (errno == EWOULDBLOCK)
		return error_set(err, EBUSY, "cannot open disk '%s': another machine is using it%s",
				 path, readonly ? " for writing" : " (try readonly or snapshot)");
	if (errno == ENOLCK || errno == EOPNOTSUPP || errno == ENOSYS)
		return 0; /* a file system without locks */
	return error_set_errno(err, errno, "cannot lock disk '%s'", path);
}

static struct block_image *open_file(const struct block_options *options, bool readonly,
				     struct error *err)
{
	cleanup_close int fd = -1;
	const struct block_format *format;
	struct block_image *image;

	/* O_NONBLOCK: a FIFO must give an error below, not a wait. */
	fd = open(options->path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		if (errno == EISDIR)
			error_set(err, EISDIR, "cannot open disk '%s': it is a directory",
				  options->path);
		else if ((errno == EACCES || errno == EROFS) && !readonly)
			error_set_errno(
				err, errno,
				"cannot open disk '%s' for writing (try readonly or snapshot)",
				options->path);
		else
			error_set_errno(err, errno, "cannot open disk '%s'", options->path);
		return NULL;
	}
	if (check_kind(fd, options->path, err) < 0 ||
	    lock_image(fd, options->path, readonly, err) < 0)
		return NULL;
	format = find_format(options->format, fd);
	if (!format) {
		error_set(err, 0, "cannot open disk '%s': unknown format '%s' (known: raw)",
			  options->path, options->format);
		return NULL;
	}
	image = format->open(fd, options->path, readonly, err);
	if (image)
		fd = -1; /* the image's now */
	return image;
}

struct block_image *block_open(const struct block_options *options, struct error *err)
{
	struct block_image *image = open_file(options, options->readonly || options->snapshot, err);
	struct block_image *overlay;

	if (!image || !options->snapshot || options->readonly)
		return image;
	overlay = block_overlay_create(image, err);
	if (!overlay)
		block_close(image);
	return overlay;
}

void block_close(struct block_image *image)
{
	if (image)
		image->ops->close(image);
}
