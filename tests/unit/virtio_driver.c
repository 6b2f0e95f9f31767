/* SPDX-License-Identifier: MIT */
/* See virtio_driver.h. Written from VIRTIO 1.2 alone, so that it disagrees with the devices
 * where they err. */
#include "virtio_driver.h"

#include <assert.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>

#include "vm/vm_private.h"

#define NEXT 1
#define WRITE 2
#define INDIRECT 4

/* ---- the machine ---- */

static void msi(void *opaque, uint64_t address, uint32_t data)
{
	struct test_machine *m = opaque;

	if (address == 0xfee00000 && data < TEST_VECTORS)
		atomic_fetch_add(&m->messages[data], 1);
}

static void line(void *opaque, unsigned n, bool level)
{
	struct test_machine *m = opaque;

	atomic_store(&m->levels[n], level);
}

/* An engine that only remembers: the state of CPUs that never run. */
static struct x86_cpu_state cpu_states[VM_VCPU_MAX];

static void get_state(struct vcpu *vcpu, struct x86_cpu_state *state)
{
	*state = cpu_states[vcpu->index];
}

static void set_state(struct vcpu *vcpu, const struct x86_cpu_state *state)
{
	cpu_states[vcpu->index] = *state;
}

static const struct engine no_engine = { .name = "none",
					 .get_state = get_state,
					 .set_state = set_state };

struct test_machine *test_machine_create(unsigned cpus)
{
	struct test_machine *m = calloc(1, sizeof(*m));
	struct vm_config config = { .name = "test", .cpus = cpus, .memory = TEST_RAM };
	struct error err;

	if (vm_create(&m->vm, &config, &no_engine, &err) < 0 ||
	    !(m->bus = pci_bus_create(m->vm, &err)) ||
	    pci_bus_add_ecam(m->bus, TEST_ECAM, MIB(256), &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
	m->vm->msi_handler = msi;
	m->vm->msi_opaque = m;
	for (unsigned i = 0; i < 4; i++)
		pci_bus_set_irq(m->bus, i, &(struct irq_line){ line, m, i }, 16 + i);
	test_free_all(m);
	return m;
}

void test_machine_start_loop(struct test_machine *m)
{
	struct error err;

	vm_clock_thaw(m->vm);
	if (loop_start(m->vm, &err) < 0)
		abort();
}

void test_machine_destroy(struct test_machine *m)
{
	loop_stop(m->vm);
	pci_bus_destroy(m->bus);
	vm_destroy(m->vm);
	free(m);
}

void test_free_all(struct test_machine *m)
{
	m->allocated = 0x10000;
}

uint64_t test_alloc(struct test_machine *m, uint64_t len)
{
	uint64_t gpa = m->allocated;

	m->allocated += ALIGN_UP(len, 4096ull);
	assert(m->allocated <= TEST_RAM);
	memset(test_host(m, gpa), 0, len);
	return gpa;
}

/* ---- registers ---- */

uint32_t driver_read(struct driver *d, uint64_t gpa, unsigned size)
{
	return bus_read(&d->m->vm->mmio, gpa, size);
}

void driver_write(struct driver *d, uint64_t gpa, uint32_t value, unsigned size)
{
	bus_write(&d->m->vm->mmio, gpa, value, size);
}

static uint32_t config_read(struct driver *d, unsigned offset, unsigned size)
{
	return bus_read(&d->m->vm->mmio, TEST_ECAM + ((uint64_t)d->devfn << 12) + offset, size);
}

static void config_write(struct driver *d, unsigned offset, uint32_t value, unsigned size)
{
	bus_write(&d->m->vm->mmio, TEST_ECAM + ((uint64_t)d->devfn << 12) + offset, value, size);
}

static uint64_t bar_address(struct driver *d, unsigned n)
{
	uint32_t low = config_read(d, 0x10 + 4 * n, 4);
	uint64_t address = low & ~15u;

	if ((low & 6) == 4)
		address |= (uint64_t)config_read(d, 0x14 + 4 * n, 4) << 32;
	return address;
}

uint8_t driver_status(struct driver *d)
{
	return driver_read(d, d->common + 0x14, 1);
}

static void add_status(struct driver *d, uint8_t bits)
{
	driver_write(d, d->common + 0x14, driver_status(d) | bits, 1);
}

void driver_probe(struct driver *d, struct test_machine *m, struct pci_device *dev)
{
	memset(d, 0, sizeof(*d));
	d->m = m;
	d->devfn = dev->devfn;
	assert(config_read(d, 0, 2) == 0x1af4);
	for (unsigned cap = config_read(d, 0x34, 1); cap; cap = config_read(d, cap + 1, 1)) {
		uint64_t where;

		if (config_read(d, cap, 1) == 0x11)
			d->msix_table = bar_address(d, config_read(d, cap + 4, 4) & 7) +
					(config_read(d, cap + 4, 4) & ~7u);
		if (config_read(d, cap, 1) != 0x09)
			continue;
		where = bar_address(d, config_read(d, cap + 4, 1)) + config_read(d, cap + 8, 4);
		switch (config_read(d, cap + 3, 1)) {
		case 1:
			d->common = where;
			break;
		case 2:
			d->notify = where;
			d->notify_multiplier = config_read(d, cap + 16, 4);
			break;
		case 3:
			d->isr = where;
			break;
		case 4:
			d->device = where;
			break;
		}
	}
	assert(d->common && d->notify && d->isr);
	driver_reset(d);
}

void driver_reset(struct driver *d)
{
	driver_write(d, d->common + 0x14, 0, 1);
	assert(driver_status(d) == 0);
}

void driver_negotiate(struct driver *d, uint64_t wanted)
{
	uint64_t offered;

	add_status(d, VIRTIO_STATUS_ACKNOWLEDGE);
	add_status(d, VIRTIO_STATUS_DRIVER);
	driver_write(d, d->common + 0x00, 0, 4);
	offered = driver_read(d, d->common + 0x04, 4);
	driver_write(d, d->common + 0x00, 1, 4);
	offered |= (uint64_t)driver_read(d, d->common + 0x04, 4) << 32;
	d->features = offered & wanted;
	driver_write(d, d->common + 0x08, 0, 4);
	driver_write(d, d->common + 0x0c, d->features, 4);
	driver_write(d, d->common + 0x08, 1, 4);
	driver_write(d, d->common + 0x0c, d->features >> 32, 4);
	add_status(d, VIRTIO_STATUS_FEATURES_OK);
	d->packed = d->features >> VIRTIO_F_RING_PACKED & 1;
	d->event_idx = d->features >> VIRTIO_F_EVENT_IDX & 1;
	d->indirect = d->features >> VIRTIO_F_INDIRECT_DESC & 1;
}

static void write64(struct driver *d, uint64_t gpa, uint64_t value)
{
	driver_write(d, gpa, value, 4);
	driver_write(d, gpa + 4, value >> 32, 4);
}

void driver_setup_queue(struct driver *d, unsigned n, uint16_t size)
{
	struct driver_queue *q = &d->queues[n];

	memset(q, 0, sizeof(*q));
	q->driver = d;
	q->index = n;
	driver_write(d, d->common + 0x16, n, 2);
	q->size = MIN(size, driver_read(d, d->common + 0x18, 2));
	driver_write(d, d->common + 0x18, q->size, 2);
	q->vector = 0xffff;
	if (d->msix) {
		driver_write(d, d->common + 0x1a, n + 1, 2);
		assert(driver_read(d, d->common + 0x1a, 2) == n + 1);
		q->vector = n + 1;
	}
	q->descriptors = test_alloc(d->m, 16 * q->size);
	q->area_driver = test_alloc(d->m, d->packed ? 4 : 6 + 2 * q->size);
	q->area_device = test_alloc(d->m, d->packed ? 4 : 6 + 8 * q->size);
	write64(d, d->common + 0x20, q->descriptors);
	write64(d, d->common + 0x28, q->area_driver);
	write64(d, d->common + 0x30, q->area_device);
	q->notify =
		d->notify + (uint64_t)driver_read(d, d->common + 0x1e, 2) * d->notify_multiplier;
	q->free_count = q->size;
	q->avail_wrap = q->used_wrap = true;
	for (unsigned i = 0; i < q->size; i++) {
		if (!d->packed)
			store_le16((uint8_t *)test_host(d->m, q->descriptors) + 16 * i + 14, i + 1);
		q->tables[i] = test_alloc(d->m, 16 * 64);
	}
	/* packed: q->lengths[id] == 0 says that an id is free */
	driver_write(d, d->common + 0x1c, 1, 2);
	assert(driver_read(d, d->common + 0x1c, 2) == 1);
}

void driver_ready(struct driver *d)
{
	add_status(d, VIRTIO_STATUS_DRIVER_OK);
}

static void setup_msix(struct driver *d)
{
	for (unsigned cap = config_read(d, 0x34, 1); cap; cap = config_read(d, cap + 1, 1)) {
		unsigned count;

		if (config_read(d, cap, 1) != 0x11)
			continue;
		count = (config_read(d, cap + 2, 2) & 0x7ff) + 1;
		config_write(d, cap + 2, 0xc000, 2);
		for (unsigned i = 0; i < count; i++) {
			driver_write(d, d->msix_table + 16 * i, 0xfee00000, 4);
			driver_write(d, d->msix_table + 16 * i + 4, 0, 4);
			driver_write(d, d->msix_table + 16 * i + 8, i, 4);
			driver_write(d, d->msix_table + 16 * i + 12, 0, 4);
		}
		config_write(d, cap + 2, 0x8000, 2);
	}
	d->msix = true;
	driver_write(d, d->common + 0x10, 0, 2);
}

void driver_start(struct driver *d, uint64_t wanted, bool msix, unsigned queues, uint16_t size)
{
	driver_negotiate(d, wanted);
	assert(driver_status(d) & VIRTIO_STATUS_FEATURES_OK);
	if (msix)
		setup_msix(d);
	for (unsigned i = 0; i < queues; i++)
		driver_setup_queue(d, i, size);
	driver_ready(d);
}

/* ---- rings ---- */

static uint8_t *at(struct driver_queue *q, uint64_t gpa)
{
	return test_host(q->driver->m, gpa);
}

static uint16_t get16(struct driver_queue *q, uint64_t gpa)
{
	return __atomic_load_n((uint16_t *)(void *)at(q, gpa), __ATOMIC_ACQUIRE);
}

static void put16(struct driver_queue *q, uint64_t gpa, uint16_t v)
{
	__atomic_store_n((uint16_t *)(void *)at(q, gpa), v, __ATOMIC_RELEASE);
}

static void put_table(struct driver_queue *q, uint64_t table, const struct test_buffer *out,
		      unsigned out_count, const struct test_buffer *in, unsigned in_count)
{
	unsigned total = out_count + in_count;

	for (unsigned i = 0; i < total; i++) {
		const struct test_buffer *b = i < out_count ? &out[i] : &in[i - out_count];
		uint8_t *p = at(q, table + 16 * i);
		uint16_t write = i < out_count ? 0 : WRITE;

		store_le64(p, b->gpa);
		store_le32(p + 8, b->len);
		if (q->driver->packed) {
			store_le16(p + 12, 0x5555); /* reserved: to be ignored */
			store_le16(p + 14, write);
		} else {
			store_le16(p + 12, write | (i + 1 < total ? NEXT : 0));
			store_le16(p + 14, i + 1);
		}
	}
}

static bool add_split(struct driver_queue *q, const struct test_buffer *out, unsigned out_count,
		      const struct test_buffer *in, unsigned in_count, bool indirect, void *token)
{
	unsigned total = out_count + in_count, slots = indirect ? 1 : total, head = q->free_head,
		 n = head;

	for (unsigned i = 0; i < slots; i++) {
		uint8_t *p = at(q, q->descriptors + 16 * n);
		const struct test_buffer *b = i < out_count ? &out[i] : &in[i - out_count];

		store_le64(p, indirect ? q->tables[head] : b->gpa);
		store_le32(p + 8, indirect ? 16 * total : b->len);
		store_le16(p + 12,
			   indirect ? INDIRECT :
				      (i < out_count ? 0 : WRITE) | (i + 1 < slots ? NEXT : 0));
		n = load_le16(p + 14);
	}
	if (indirect)
		put_table(q, q->tables[head], out, out_count, in, in_count);
	q->free_head = n;
	q->tokens[head] = token;
	q->lengths[head] = slots;
	put16(q, q->area_driver + 4 + 2 * (q->avail_idx % q->size), head);
	put16(q, q->area_driver + 2, ++q->avail_idx);
	q->added++;
	q->free_count -= slots;
	return true;
}

static bool add_packed(struct driver_queue *q, const struct test_buffer *out, unsigned out_count,
		       const struct test_buffer *in, unsigned in_count, bool indirect, void *token)
{
	unsigned total = out_count + in_count, slots = indirect ? 1 : total, id = 0;
	uint64_t first = q->descriptors + 16 * q->next_avail;
	uint16_t first_flags = 0;

	while (q->lengths[id])
		id = (id + 5) %
		     q->size; /* ids in an odd order, to catch those who take them for positions */
	if (indirect)
		put_table(q, q->tables[id], out, out_count, in, in_count);
	for (unsigned i = 0; i < slots; i++) {
		uint8_t *p = at(q, q->descriptors + 16 * q->next_avail);
		const struct test_buffer *b = i < out_count ? &out[i] : &in[i - out_count];
		uint16_t flags = q->avail_wrap ? 0x80 : 0x8000;

		store_le64(p, indirect ? q->tables[id] : b->gpa);
		store_le32(p + 8, indirect ? 16 * total : b->len);
		store_le16(p + 12, id);
		flags |= indirect ? INDIRECT :
				    (i < out_count ? 0 : WRITE) | (i + 1 < slots ? NEXT : 0);
		if (i == 0)
			first_flags = flags;
		else
			put16(q, q->descriptors + 16 * q->next_avail + 14, flags);
		if (++q->next_avail == q->size) {
			q->next_avail = 0;
			q->avail_wrap = !q->avail_wrap;
		}
	}
	q->tokens[id] = token;
	q->lengths[id] = slots;
	put16(q, first + 14, first_flags);
	q->added += slots;
	q->free_count -= slots;
	return true;
}

bool driver_add(struct driver_queue *q, const struct test_buffer *out, unsigned out_count,
		const struct test_buffer *in, unsigned in_count, void *token)
{
	bool indirect = q->driver->indirect && out_count + in_count > 1;

	assert(out_count + in_count <= 64);
	if (q->free_count < (indirect ? 1 : out_count + in_count))
		return false;
	return q->driver->packed ? add_packed(q, out, out_count, in, in_count, indirect, token) :
				   add_split(q, out, out_count, in, in_count, indirect, token);
}

static bool passed(uint16_t event, uint16_t new_index, uint16_t old_index)
{
	return (uint16_t)(new_index - event - 1) < (uint16_t)(new_index - old_index);
}

static bool wants_kick(struct driver_queue *q)
{
	struct driver *d = q->driver;
	uint16_t flags, where, offset;

	if (!d->packed && !d->event_idx)
		return !(get16(q, q->area_device) & 1);
	if (!d->packed)
		return passed(get16(q, q->area_device + 4 + 8 * q->size), q->avail_idx,
			      q->avail_idx - q->added);
	flags = get16(q, q->area_device + 2) & 3;
	if (flags != 2)
		return flags == 0;
	where = get16(q, q->area_device);
	offset = where & 0x7fff;
	if (where >> 15 != q->avail_wrap)
		offset -= q->size;
	return passed(offset, q->next_avail, q->next_avail - q->added);
}

bool driver_kick(struct driver_queue *q)
{
	bool wanted;

	atomic_thread_fence(memory_order_seq_cst);
	wanted = wants_kick(q);
	q->added = 0;
	if (wanted) {
		q->kicks++;
		driver_write(q->driver, q->notify, q->index, 2);
	}
	return wanted;
}

static void *used_split(struct driver_queue *q, uint32_t *len)
{
	uint8_t *entry;
	uint32_t head;
	unsigned n;

	if (get16(q, q->area_device + 2) == q->last_used)
		return NULL;
	entry = at(q, q->area_device + 4 + 8 * (q->last_used % q->size));
	head = load_le32(entry);
	*len = load_le32(entry + 4);
	assert(head < q->size && q->lengths[head]);
	n = head;
	for (unsigned i = 1; i < q->lengths[head]; i++)
		n = load_le16(at(q, q->descriptors + 16 * n + 14));
	store_le16(at(q, q->descriptors + 16 * n + 14), q->free_head);
	q->free_head = head;
	q->free_count += q->lengths[head];
	q->lengths[head] = 0;
	q->last_used++;
	return q->tokens[head];
}

static void *used_packed(struct driver_queue *q, uint32_t *len)
{
	uint64_t entry = q->descriptors + 16 * q->next_used;
	uint16_t flags = get16(q, entry + 14), id;

	if (!!(flags & 0x80) != q->used_wrap || !!(flags & 0x8000) != q->used_wrap)
		return NULL;
	id = load_le16(at(q, entry + 12));
	*len = load_le32(at(q, entry + 8));
	assert(id < q->size && q->lengths[id]);
	q->next_used += q->lengths[id];
	if (q->next_used >= q->size) {
		q->next_used -= q->size;
		q->used_wrap = !q->used_wrap;
	}
	q->free_count += q->lengths[id];
	q->lengths[id] = 0;
	return q->tokens[id];
}

void *driver_used(struct driver_queue *q, uint32_t *len)
{
	uint32_t ignored;

	return q->driver->packed ? used_packed(q, len ? len : &ignored) :
				   used_split(q, len ? len : &ignored);
}

void *driver_wait(struct driver_queue *q, uint32_t *len)
{
	struct timespec start, now;
	void *token;

	clock_gettime(CLOCK_MONOTONIC, &start);
	while (!(token = driver_used(q, len))) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec - start.tv_sec > 5)
			return NULL;
		sched_yield();
	}
	return token;
}

void driver_enable_interrupts(struct driver_queue *q, bool enable)
{
	struct driver *d = q->driver;

	if (d->packed) {
		put16(q, q->area_driver, q->next_used | (q->used_wrap ? 0x8000 : 0));
		put16(q, q->area_driver + 2, !enable ? 1 : d->event_idx ? 2 : 0);
	} else if (d->event_idx) {
		/* "none" is an event far away, as drivers do it */
		put16(q, q->area_driver + 4 + 2 * q->size,
		      enable ? q->last_used : q->last_used - 1);
	} else {
		put16(q, q->area_driver, !enable);
	}
	atomic_thread_fence(memory_order_seq_cst);
}
