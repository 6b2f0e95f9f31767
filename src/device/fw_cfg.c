/* SPDX-License-Identifier: MIT */
/*
 * QEMU's firmware configuration device: numbered items and named files that a guest can read.
 *
 * Follows docs/specs/fw_cfg in QEMU: a 16-bit selector at port 0x510, data bytes at 0x511, and a DMA interface at 0x514 that
 * takes the big-endian address of a control structure. Items cannot be written by the guest.
 */
#include "device/fw_cfg.h"

#include <endian.h>
#include <errno.h>

#include "base/log.h"
#include "base/util.h"

#define FILE_MAX (FW_CFG_KEYS - FW_CFG_FILE_FIRST)
#define NAME_SIZE 56
#define ARCH_LOCAL 0x8000u /* selector bit 15: the second set of items */
#define WRITE_CHANNEL 0x4000u
#define ID_PORTS 1u
#define ID_DMA 2u

#define DMA_ERROR 0x01u
#define DMA_READ 0x02u
#define DMA_SKIP 0x04u
#define DMA_SELECT 0x08u
#define DMA_WRITE 0x10u

struct item {
	uint8_t *data;
	size_t len;
};

struct file {
	char name[NAME_SIZE];
	struct item item;
};

struct fw_cfg {
	pthread_mutex_t lock;
	struct vm *vm;
	struct item items[2][FW_CFG_KEYS]; /* general, architecture-local */
	unsigned file_count;
	struct file files[FILE_MAX]; /* sorted by name; file n has key FW_CFG_FILE_FIRST + n */
	uint16_t selector;
	uint32_t offset; /* in the selected item */
	uint64_t dma_address;
};

static const struct state_field fw_fields[] = {
	STATE_FIELD(struct fw_cfg, selector),
	STATE_FIELD(struct fw_cfg, offset),
	STATE_FIELD(struct fw_cfg, dma_address),
	STATE_END,
};
static const struct state_table fw_table = { .name = "fw_cfg", .version = 1, .fields = fw_fields };

static const struct item *selected(const struct fw_cfg *fw)
{
	static const struct item nothing;
	unsigned key = fw->selector & (WRITE_CHANNEL - 1);

	if (key >= FW_CFG_KEYS)
		return &nothing;
	if (!(fw->selector & ARCH_LOCAL) && key >= FW_CFG_FILE_FIRST)
		return key - FW_CFG_FILE_FIRST < fw->file_count ?
			       &fw->files[key - FW_CFG_FILE_FIRST].item :
			       &nothing;
	return &fw->items[fw->selector & ARCH_LOCAL ? 1 : 0][key];
}

/* ---- filling ---- */

static int set_item(struct item *item, const void *data, size_t len, struct error *err)
{
	uint8_t *copy = malloc(len ? len : 1);

	if (!copy || len > UINT32_MAX) {
		free(copy);
		return error_set(err, ENOMEM, "cannot store a fw_cfg item of %zu bytes", len);
	}
	memcpy(copy, data, len);
	free(item->data);
	*item = (struct item){ copy, len };
	return 0;
}

int fw_cfg_add_bytes(struct fw_cfg *fw, uint16_t key, const void *data, size_t len,
		     struct error *err)
{
	unsigned number = key & (WRITE_CHANNEL - 1);

	if (number >= FW_CFG_KEYS || (!(key & ARCH_LOCAL) && number >= FW_CFG_FILE_FIRST))
		return error_set(err, EINVAL, "0x%x is not the key of a fw_cfg item", key);
	return set_item(&fw->items[key & ARCH_LOCAL ? 1 : 0][number], data, len, err);
}

int fw_cfg_add_u16(struct fw_cfg *fw, uint16_t key, uint16_t value, struct error *err)
{
	return fw_cfg_add_bytes(fw, key, &value, sizeof(value), err);
}

int fw_cfg_add_u32(struct fw_cfg *fw, uint16_t key, uint32_t value, struct error *err)
{
	return fw_cfg_add_bytes(fw, key, &value, sizeof(value), err);
}

int fw_cfg_add_u64(struct fw_cfg *fw, uint16_t key, uint64_t value, struct error *err)
{
	return fw_cfg_add_bytes(fw, key, &value, sizeof(value), err);
}

int fw_cfg_add_string(struct fw_cfg *fw, uint16_t key, const char *text, struct error *err)
{
	return fw_cfg_add_bytes(fw, key, text, strlen(text) + 1, err);
}

/* The directory as the guest reads it: a count, then an entry for each file; numbers are big-endian. */
static int build_directory(struct fw_cfg *fw, struct error *err)
{
	struct entry {
		uint32_t size;
		uint16_t select, reserved;
		char name[NAME_SIZE];
	};
	size_t len = sizeof(uint32_t) + fw->file_count * sizeof(struct entry);
	cleanup_free uint8_t *data = calloc(1, len);
	uint32_t count = htobe32(fw->file_count);

	if (!data)
		return error_set(err, ENOMEM, "cannot build the fw_cfg directory");
	memcpy(data, &count, sizeof(count));
	for (unsigned i = 0; i < fw->file_count; i++) {
		struct entry entry = {
			.size = htobe32((uint32_t)fw->files[i].item.len),
			.select = htobe16((uint16_t)(FW_CFG_FILE_FIRST + i)),
		};

		memcpy(entry.name, fw->files[i].name, NAME_SIZE);
		memcpy(data + sizeof(count) + i * sizeof(entry), &entry, sizeof(entry));
	}
	return set_item(&fw->items[0][FW_CFG_FILE_DIR], data, len, err);
}

int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *data, size_t len,
		    struct error *err)
{
	unsigned at = 0;

	if (strlen(name) >= NAME_SIZE)
		return error_set(err, EINVAL, "fw_cfg file name '%s' is longer than %d characters",
				 name, NAME_SIZE - 1);
	while (at < fw->file_count && strcmp(fw->files[at].name, name) < 0)
		at++;
	if (at == fw->file_count || strcmp(fw->files[at].name, name) != 0) {
		if (fw->file_count == FILE_MAX)
			return error_set(err, ENOSPC, "fw_cfg file '%s': there are %d already",
					 name, FILE_MAX);
		memmove(&fw->files[at + 1], &fw->files[at],
			(fw->file_count - at) * sizeof(fw->files[0]));
		fw->file_count++;
		fw->files[at] = (struct file){ 0 };
		memcpy(fw->files[at].name, name, strlen(name));
	}
	if (set_item(&fw->files[at].item, data, len, err))
		return -1;
	return build_directory(fw, err);
}

/* ---- ports ---- */

static void select_item(struct fw_cfg *fw, uint16_t key)
{
	fw->selector = key;
	fw->offset = 0;
}

static uint8_t read_byte(struct fw_cfg *fw)
{
	const struct item *item = selected(fw);

	if (fw->offset >= item->len)
		return 0;
	return item->data[fw->offset++];
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
	struct fw_cfg *fw = opaque;
	uint8_t value;

	(void)size;
	if (offset != 1)
		return 0; /* the selector cannot be read */
	pthread_mutex_lock(&fw->lock);
	value = read_byte(fw);
	pthread_mutex_unlock(&fw->lock);
	return value;
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct fw_cfg *fw = opaque;

	if (offset != 0 || size != 2)
		return;
	pthread_mutex_lock(&fw->lock);
	select_item(fw, (uint16_t)value);
	pthread_mutex_unlock(&fw->lock);
}

/* ---- DMA ---- */

/* Copy len bytes of the item, then zeroes, to guest memory at gpa. */
static int dma_read(struct fw_cfg *fw, uint64_t gpa, uint32_t len)
{
	static const uint8_t zeroes[4096];
	const struct item *item = selected(fw);
	uint32_t n = fw->offset < item->len ? (uint32_t)MIN(len, item->len - fw->offset) : 0;

	if (n && guest_memory_write(fw->vm, gpa, item->data + fw->offset, n))
		return -1;
	fw->offset += n;
	while (n < len) {
		uint32_t piece = (uint32_t)MIN(len - n, sizeof(zeroes));

		if (guest_memory_write(fw->vm, gpa + n, zeroes, piece))
			return -1;
		n += piece;
	}
	return 0;
}

static void dma_run(struct fw_cfg *fw, uint64_t at)
{
	struct {
		uint32_t control, length;
		uint64_t address;
	} request;
	uint32_t control, length, result = 0;

	if (guest_memory_read(fw->vm, at, &request, sizeof(request)))
		return;
	control = be32toh(request.control);
	length = be32toh(request.length);
	if (control & DMA_SELECT)
		select_item(fw, (uint16_t)(control >> 16));
	if (control & DMA_READ) {
		if (dma_read(fw, be64toh(request.address), length))
			result = DMA_ERROR;
	} else if (control & DMA_WRITE) {
		result = DMA_ERROR; /* no item can be written */
	} else if (control & DMA_SKIP) {
		fw->offset = length > UINT32_MAX - fw->offset ? UINT32_MAX : fw->offset + length;
	}
	result = htobe32(result);
	guest_memory_write(fw->vm, at, &result, sizeof(result));
}

static uint64_t dma_port_read(void *opaque, uint64_t offset, unsigned size)
{
	static const uint8_t signature[8] = { 'Q', 'E', 'M', 'U', ' ', 'C', 'F', 'G' };
	uint64_t value = 0;

	(void)opaque;
	memcpy(&value, signature + (offset & 7), MIN(size, 8 - (unsigned)(offset & 7)));
	return value;
}

static void dma_port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct fw_cfg *fw = opaque;

	if (size != 4)
		return;
	pthread_mutex_lock(&fw->lock);
	if (offset == 0) {
		fw->dma_address = (uint64_t)be32toh((uint32_t)value) << 32;
	} else if (offset == 4) {
		uint64_t at = fw->dma_address | be32toh((uint32_t)value);

		fw->dma_address = 0;
		dma_run(fw, at);
	}
	pthread_mutex_unlock(&fw->lock);
}

static const struct io_ops port_ops = { .read = port_read, .write = port_write, .max_size = 2 };
static const struct io_ops dma_ops = { .read = dma_port_read,
				       .write = dma_port_write,
				       .max_size = 4 };

/* ---- life ---- */

static void fw_reset(void *opaque)
{
	struct fw_cfg *fw = opaque;

	pthread_mutex_lock(&fw->lock);
	select_item(fw, 0);
	fw->dma_address = 0;
	pthread_mutex_unlock(&fw->lock);
}

static void fw_destroy(void *opaque)
{
	struct fw_cfg *fw = opaque;

	for (unsigned i = 0; i < FW_CFG_KEYS; i++) {
		free(fw->items[0][i].data);
		free(fw->items[1][i].data);
	}
	for (unsigned i = 0; i < fw->file_count; i++)
		free(fw->files[i].item.data);
	pthread_mutex_destroy(&fw->lock);
	free(fw);
}

int fw_cfg_create(struct vm *vm, struct fw_cfg **out, struct error *err)
{
	struct fw_cfg *fw = calloc(1, sizeof(*fw));

	if (!fw)
		return error_set(err, ENOMEM, "out of memory for fw_cfg");
	fw->vm = vm;
	pthread_mutex_init(&fw->lock, NULL);
	vm_add_cleanup(vm, fw_destroy, fw);
	vm_add_reset(vm, fw_reset, fw);
	vm_state_register(vm, &fw_table, 0, fw);
	if (fw_cfg_add_bytes(fw, FW_CFG_SIGNATURE, "QEMU", 4, err) ||
	    fw_cfg_add_u32(fw, FW_CFG_ID, ID_PORTS | ID_DMA, err) ||
	    fw_cfg_add_u64(fw, FW_CFG_RAM_SIZE, vm->memory.ram_size, err) ||
	    fw_cfg_add_u16(fw, FW_CFG_NOGRAPHIC, 1, err) ||
	    fw_cfg_add_u16(fw, FW_CFG_NB_CPUS, (uint16_t)vm->vcpu_count, err) ||
	    fw_cfg_add_u16(fw, FW_CFG_MAX_CPUS, (uint16_t)vm->vcpu_count, err) ||
	    build_directory(fw, err))
		return -1;
	if (bus_add(&vm->pio, &(struct io_region){ "fw_cfg", 0x510, 2, &port_ops, fw }, err) ||
	    bus_add(&vm->pio, &(struct io_region){ "fw_cfg-dma", 0x514, 8, &dma_ops, fw }, err))
		return -1;
	*out = fw;
	return 0;
}
