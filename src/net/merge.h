/* SPDX-License-Identifier: MIT */
/* Joining TCP segments on their way to the guest, so that it handles one long frame instead of
 * many. */
#ifndef LODGE_NET_MERGE_H
#define LODGE_NET_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_MERGE_MAX 32768 /* longest joined frame */

struct net_merge {
	size_t len;           /* of the frame held; 0: none */
	unsigned segments;    /* joined in it */
	uint16_t segment_len; /* payload of the first, and of all but the last */
	uint32_t next_sequence;
	bool closed; /* nothing more may follow */
	uint8_t frame[NET_MERGE_MAX];
};

/* Hold the frame, or append it to the one that is held; false if neither is possible: then the
 * caller takes what is held with net_merge_finish() and tries again, and if that fails too, the
 * frame goes on its own. */
bool net_merge_add(struct net_merge *merge, const uint8_t *frame, size_t len);

/*
 * Make what is held ready for the guest: lengths and the IP checksum are put right. With several
 * segments, the TCP checksum field holds the sum of the pseudo header, as segmentation offload
 * wants it. Returns the length; 0: nothing was held. The frame is good until the next
 * net_merge_add(). *segments and *segment_len describe it.
 */
size_t net_merge_finish(struct net_merge *merge, unsigned *segments, uint16_t *segment_len);

#endif
