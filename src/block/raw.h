/* SPDX-License-Identifier: MIT */
/* Raw disk images: a file or block device is the disk, byte for byte. */
#ifndef LODGE_BLOCK_RAW_H
#define LODGE_BLOCK_RAW_H

#include "block/image.h"

extern const struct block_format raw_format;

#endif
