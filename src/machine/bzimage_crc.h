/* SPDX-License-Identifier: MIT */
/* Is a bzImage damaged? Its checksum, computed beside other work. */
#ifndef LODGE_MACHINE_BZIMAGE_CRC_H
#define LODGE_MACHINE_BZIMAGE_CRC_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bzimage_crc {
	const uint8_t *data;
	size_t size;      /* of what the checksum covers; 0: it has none */
	size_t pe_offset; /* of its PE header; 0: it has none */
	bool threaded;
	pthread_t thread;
	uint32_t remainder;
};

/* Begin to compute the checksum of the image in [data, data+size), where setup_size bytes precede
 * the protected-mode code. data must stay until bzimage_crc_finish(), which must be called. */
void bzimage_crc_start(struct bzimage_crc *crc, const uint8_t *data, size_t size,
		       size_t setup_size);

/* Wait for it: false if the image is damaged, true if it is whole or has no checksum. */
bool bzimage_crc_finish(struct bzimage_crc *crc);

#endif
