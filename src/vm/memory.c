/* SPDX-License-Identifier: MIT */
/*
 * Guest-physical memory: one mapping for RAM, anonymous memory for ROMs, a small fixed table of slots.
 *
 * RAM is a memfd, mapped shared, if the host gives huge pages to shared memory. Most do not (shmem_enabled is "never"
 * by default) but give them to private memory; then RAM is private, as long as no other process has to map
 * it: the first touch of a page costs a tenth, and the host's TLB reaches 512 times as far.
 *
 * RAM lies at an address aligned to 1 GiB (2 MiB for small guests), so that a guest's large pages can be large in the
 * host too, between inaccessible guard pages. The slot table is complete before vCPUs start and never changes, so
 * lookups need no lock.
 */
#include "vm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "base/util.h"
#include "vm/vm.h"

#define RAM_MAX (1ull << 40)
#define GUARD_SIZE MIB(2)

static struct memory_slot *add_slot(struct guest_memory *mem, const char *name, uint64_t gpa,
				    uint64_t size, uint8_t *host, uint8_t *page_flags,
				    bool readonly)
{
	struct memory_slot *slot = &mem->slots[mem->slot_count++];

	*slot = (struct memory_slot){
		.gpa = gpa,
		.size = size,
		.host = host,
		.page_flags = page_flags,
		.readonly = readonly,
		.name = name,
	};
	return slot;
}

/* Reserve address space for size bytes at the alignment, with a guard on each side. */
static uint8_t *reserve(uint64_t size, uint64_t align)
{
	uint64_t total = size + align + 2 * GUARD_SIZE, start, head, tail;
	uint8_t *p =
		mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	start = ALIGN_UP((uint64_t)(uintptr_t)p + GUARD_SIZE, align);
	head = start - GUARD_SIZE - (uint64_t)(uintptr_t)p;
	tail = total - head - size - 2 * GUARD_SIZE;
	if (head)
		munmap(p, head);
	if (tail)
		munmap((uint8_t *)(uintptr_t)(start + size + GUARD_SIZE), tail);
	return (uint8_t *)(uintptr_t)start;
}

/* Does a file of words, the active one in brackets, say that madvise(MADV_HUGEPAGE) works? */
static bool huge_pages(const char *path)
{
	static const char *const yes[] = { "[always]", "[within_size]", "[advise]", "[madvise]",
					   "[force]" };
	char text[128] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	for (unsigned i = 0; n > 0 && i < ARRAY_SIZE(yes); i++)
		if (strstr(text, yes[i]))
			return true;
	return false;
}

static bool better_private(void)
{
	return !huge_pages("/sys/kernel/mm/transparent_hugepage/shmem_enabled") &&
	       huge_pages("/sys/kernel/mm/transparent_hugepage/enabled");
}

static int map_ram(struct guest_memory *mem, uint64_t size, bool shared, struct error *err)
{
	int flags = MAP_FIXED | MAP_NORESERVE;

	if (shared || !better_private()) {
		mem->memfd = memfd_create("lodge-ram", MFD_CLOEXEC);
		if (mem->memfd < 0)
			return error_set_errno(err, errno, "cannot create guest memory");
		if (ftruncate(mem->memfd, (off_t)size) < 0)
			return error_set_errno(err, errno,
					       "cannot make guest memory %llu bytes large",
					       (unsigned long long)size);
		flags |= MAP_SHARED;
	} else {
		flags |= MAP_PRIVATE | MAP_ANONYMOUS;
	}
	mem->host = reserve(size, size >= GIB(1) ? GIB(1) : MIB(2));
	if (!mem->host ||
	    mmap(mem->host, size, PROT_READ | PROT_WRITE, flags, mem->memfd, 0) == MAP_FAILED)
		return error_set_errno(err, errno, "cannot map %llu bytes of guest memory",
				       (unsigned long long)size);
	madvise(mem->host, size, MADV_HUGEPAGE); /* where it does nothing it does no harm */
	return 0;
}

static int create(struct guest_memory *mem, uint64_t size, bool shared, struct error *err)
{
	uint64_t low = MIN(size, GUEST_RAM_LOW_MAX), pages = size / PAGE_SIZE;

	*mem = (struct guest_memory){ .memfd = -1 };
	if (size % PAGE_SIZE || size < MIB(1) || size > RAM_MAX)
		return error_set(
			err, EINVAL,
			"guest memory of %llu bytes is not a multiple of 4 KiB between 1 MiB and 1 TiB",
			(unsigned long long)size);
	mem->ram_size = size;
	if (map_ram(mem, size, shared, err))
		goto fail;
	mem->page_flags = mmap(NULL, pages, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem->page_flags == MAP_FAILED) {
		mem->page_flags = NULL;
		error_set_errno(err, errno, "cannot allocate page flags for %llu pages",
				(unsigned long long)pages);
		goto fail;
	}
	add_slot(mem, "ram-low", 0, low, mem->host, mem->page_flags, false);
	if (size > low)
		add_slot(mem, "ram-high", GIB(4), size - low, mem->host + low,
			 mem->page_flags + low / PAGE_SIZE, false);
	return 0;
fail:
	guest_memory_destroy(mem);
	return -1;
}

int guest_memory_create(struct guest_memory *mem, uint64_t size, struct error *err)
{
	return create(mem, size, false, err);
}

int guest_memory_create_shared(struct guest_memory *mem, uint64_t size, struct error *err)
{
	return create(mem, size, true, err);
}

void guest_memory_clear(struct guest_memory *mem)
{
	if (madvise(mem->host, mem->ram_size, mem->memfd >= 0 ? MADV_REMOVE : MADV_DONTNEED))
		memset(mem->host, 0, mem->ram_size);
}

void guest_memory_destroy(struct guest_memory *mem)
{
	for (unsigned i = 0; i < mem->slot_count; i++) {
		if (!mem->slots[i].readonly)
			continue;
		munmap(mem->slots[i].host, mem->slots[i].size);
		free(mem->slots[i].page_flags);
	}
	if (mem->host)
		munmap(mem->host - GUARD_SIZE, mem->ram_size + 2 * GUARD_SIZE);
	if (mem->page_flags)
		munmap(mem->page_flags, mem->ram_size / PAGE_SIZE);
	if (mem->memfd >= 0)
		close(mem->memfd);
	*mem = (struct guest_memory){ .memfd = -1 };
}

uint8_t *guest_memory_add_rom(struct guest_memory *mem, const char *name, uint64_t gpa,
			      uint64_t size, struct error *err)
{
	uint8_t *host, *flags;

	if (gpa % PAGE_SIZE || size % PAGE_SIZE || !size || gpa + size < gpa || size > GIB(1)) {
		error_set(err, EINVAL, "ROM '%s': 0x%llx bytes at 0x%llx are not whole pages", name,
			  (unsigned long long)size, (unsigned long long)gpa);
		return NULL;
	}
	for (unsigned i = 0; i < mem->slot_count; i++) {
		const struct memory_slot *s = &mem->slots[i];

		if (gpa < s->gpa + s->size && s->gpa < gpa + size) {
			error_set(err, EINVAL, "ROM '%s' at 0x%llx overlaps '%s'", name,
				  (unsigned long long)gpa, s->name);
			return NULL;
		}
	}
	if (mem->slot_count == MEMORY_SLOT_MAX) {
		error_set(err, ENOSPC, "ROM '%s': the memory slots are used up", name);
		return NULL;
	}
	flags = calloc(size / PAGE_SIZE, 1);
	host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!flags || host == MAP_FAILED) {
		free(flags);
		if (host != MAP_FAILED)
			munmap(host, size);
		error_set(err, ENOMEM, "cannot allocate ROM '%s' of %llu bytes", name,
			  (unsigned long long)size);
		return NULL;
	}
	add_slot(mem, name, gpa, size, host, flags, true);
	return host;
}

struct memory_slot *guest_memory_find_slot(struct guest_memory *mem, uint64_t gpa)
{
	for (unsigned i = 0; i < mem->slot_count; i++)
		if (gpa - mem->slots[i].gpa < mem->slots[i].size)
			return &mem->slots[i];
	return NULL;
}

/* Bytes from gpa to the end of slot. */
static uint64_t slot_room(const struct memory_slot *slot, uint64_t gpa)
{
	return slot->size - (gpa - slot->gpa);
}

void *guest_memory_host(struct guest_memory *mem, uint64_t gpa, uint64_t len, bool write)
{
	struct memory_slot *slot = guest_memory_find_slot(mem, gpa);

	if (!slot || slot_room(slot, gpa) < len || (write && slot->readonly))
		return NULL;
	return slot->host + (gpa - slot->gpa);
}

static void slot_written(struct vm *vm, struct memory_slot *slot, uint64_t gpa, uint64_t len)
{
	uint64_t first = (gpa - slot->gpa) >> PAGE_SHIFT,
		 last = (gpa - slot->gpa + len - 1) >> PAGE_SHIFT;
	bool code = false;

	/* The flags are read after the data was written; an engine sets the flag before it reads the code. */
	atomic_thread_fence(memory_order_seq_cst);
	for (uint64_t page = first; page <= last; page++) {
		uint8_t flags = __atomic_load_n(&slot->page_flags[page], __ATOMIC_RELAXED);

		if (!(flags & PAGE_FLAG_DIRTY))
			__atomic_fetch_or(&slot->page_flags[page], PAGE_FLAG_DIRTY,
					  __ATOMIC_RELAXED);
		code |= flags & PAGE_FLAG_CODE;
	}
	if (unlikely(code) && vm->engine && vm->engine->memory_written)
		vm->engine->memory_written(vm, gpa, len);
}

void guest_memory_written(struct vm *vm, uint64_t gpa, uint64_t len)
{
	while (len) {
		struct memory_slot *slot = guest_memory_find_slot(&vm->memory, gpa);
		uint64_t n;

		if (!slot)
			return;
		n = MIN(len, slot_room(slot, gpa));
		slot_written(vm, slot, gpa, n);
		gpa += n;
		len -= n;
	}
}

/* Is all of [gpa, gpa+len) memory (RAM, if write)? */
static bool range_valid(struct guest_memory *mem, uint64_t gpa, uint64_t len, bool write)
{
	while (len) {
		const struct memory_slot *slot = guest_memory_find_slot(mem, gpa);
		uint64_t n;

		if (!slot || (write && slot->readonly))
			return false;
		n = MIN(len, slot_room(slot, gpa));
		gpa += n;
		len -= n;
	}
	return true;
}

int guest_memory_read(struct vm *vm, uint64_t gpa, void *buf, uint64_t len)
{
	uint8_t *to = buf;

	if (!range_valid(&vm->memory, gpa, len, false))
		return -1;
	while (len) {
		const struct memory_slot *slot = guest_memory_find_slot(&vm->memory, gpa);
		uint64_t n = MIN(len, slot_room(slot, gpa));

		memcpy(to, slot->host + (gpa - slot->gpa), n);
		to += n;
		gpa += n;
		len -= n;
	}
	return 0;
}

int guest_memory_write(struct vm *vm, uint64_t gpa, const void *buf, uint64_t len)
{
	const uint8_t *from = buf;

	if (!range_valid(&vm->memory, gpa, len, true))
		return -1;
	while (len) {
		struct memory_slot *slot = guest_memory_find_slot(&vm->memory, gpa);
		uint64_t n = MIN(len, slot_room(slot, gpa));

		memcpy(slot->host + (gpa - slot->gpa), from, n);
		slot_written(vm, slot, gpa, n);
		from += n;
		gpa += n;
		len -= n;
	}
	return 0;
}
