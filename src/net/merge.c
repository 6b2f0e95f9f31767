/* SPDX-License-Identifier: MIT */
/*
 * Joining TCP segments on their way to the guest.
 *
 * A back end that speaks TCP for the host sends a download as a train of full segments of one
 * connection. Each would cost the guest an interrupt's share, a walk through its network stack and
 * an acknowledgement. Here, segments that follow each other directly are joined into one frame that
 * the guest takes as the result of receive offload.
 *
 * Joined are IPv4 frames without IP options or fragmentation, with a plain TCP header (RFC 793) of
 * 20 bytes, ACK and perhaps PSH as the only flags, and data; of the same connection, in sequence,
 * all but the last of the same length. Headers are those of the first, with acknowledgement, window
 * and PSH of the last.
 */
#include "net/merge.h"

#include "base/util.h"

enum {
	ETHERNET_TYPE = 12,
	IP = 14,
	IP_TOTAL_LENGTH = IP + 2,
	IP_FRAGMENT = IP + 6,
	IP_PROTOCOL = IP + 9,
	IP_CHECKSUM = IP + 10,
	IP_ADDRESSES = IP + 12,
	TCP = IP + 20,
	TCP_SEQUENCE = TCP + 4,
	TCP_ACKNOWLEDGE = TCP + 8,
	TCP_OFFSET = TCP + 12,
	TCP_FLAGS = TCP + 13,
	TCP_WINDOW = TCP + 14,
	TCP_CHECKSUM = TCP + 16,
	DATA = TCP + 20,
};

#define FLAG_PSH 0x08
#define FLAG_ACK 0x10
#define PROTOCOL_TCP 6
#define MORE_FRAGMENTS_AND_OFFSET 0x3fff

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = v >> 8;
	p[1] = v & 0xff;
}

static uint32_t sum_words(const uint8_t *p, size_t len)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < len; i += 2)
		sum += get16(p + i);
	return sum;
}

static uint16_t fold(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static bool is_plain_segment(const uint8_t *frame, size_t len)
{
	return len > DATA && len <= NET_MERGE_MAX && get16(frame + ETHERNET_TYPE) == 0x0800 &&
	       frame[IP] == 0x45 && get16(frame + IP_TOTAL_LENGTH) == len - IP &&
	       !(get16(frame + IP_FRAGMENT) & MORE_FRAGMENTS_AND_OFFSET) &&
	       frame[IP_PROTOCOL] == PROTOCOL_TCP && frame[TCP_OFFSET] == 5 << 4 &&
	       (frame[TCP_FLAGS] & ~FLAG_PSH) == FLAG_ACK;
}

static bool follows(const struct net_merge *merge, const uint8_t *frame, size_t len)
{
	size_t data_len = len - DATA;

	return !merge->closed && data_len <= merge->segment_len &&
	       data_len <= NET_MERGE_MAX - merge->len &&
	       get32(frame + TCP_SEQUENCE) == merge->next_sequence &&
	       !memcmp(frame, merge->frame, IP) &&
	       !memcmp(frame + IP_ADDRESSES, merge->frame + IP_ADDRESSES, 8) &&
	       !memcmp(frame + TCP, merge->frame + TCP, 4) &&
	       frame[IP + 1] == merge->frame[IP + 1] && frame[IP + 8] == merge->frame[IP + 8];
}

bool net_merge_add(struct net_merge *merge, const uint8_t *frame, size_t len)
{
	size_t data_len = len - DATA;

	if (!is_plain_segment(frame, len))
		return false;
	if (!merge->len) {
		memcpy(merge->frame, frame, len);
		merge->len = len;
		merge->segments = 1;
		merge->segment_len = data_len;
		merge->next_sequence = get32(frame + TCP_SEQUENCE) + data_len;
		merge->closed = frame[TCP_FLAGS] & FLAG_PSH;
		return true;
	}
	if (!follows(merge, frame, len))
		return false;
	memcpy(merge->frame + merge->len, frame + DATA, data_len);
	memcpy(merge->frame + TCP_ACKNOWLEDGE, frame + TCP_ACKNOWLEDGE, 4);
	memcpy(merge->frame + TCP_WINDOW, frame + TCP_WINDOW, 2);
	merge->frame[TCP_FLAGS] |= frame[TCP_FLAGS];
	merge->len += data_len;
	merge->segments++;
	merge->next_sequence += data_len;
	merge->closed = data_len < merge->segment_len || (frame[TCP_FLAGS] & FLAG_PSH);
	return true;
}

size_t net_merge_finish(struct net_merge *merge, unsigned *segments, uint16_t *segment_len)
{
	size_t len = merge->len;
	uint8_t *frame = merge->frame;

	*segments = merge->segments;
	*segment_len = merge->segment_len;
	merge->len = 0;
	if (!len || *segments == 1)
		return len;
	put16(frame + IP_TOTAL_LENGTH, len - IP);
	put16(frame + IP_CHECKSUM, 0);
	put16(frame + IP_CHECKSUM, ~fold(sum_words(frame + IP, 20)));
	put16(frame + TCP_CHECKSUM,
	      fold(sum_words(frame + IP_ADDRESSES, 8) + PROTOCOL_TCP + (uint32_t)(len - TCP)));
	return len;
}
