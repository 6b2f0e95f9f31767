/* SPDX-License-Identifier: MIT */
/*
 * ELF executables as kernels.
 *
 * Only what loading needs: the ELF header, PT_LOAD segments with their physical addresses, and
 * the one Xen note that names the PVH entry point. Every offset comes from a file that may be
 * corrupt, so each is checked against the file's size before use.
 *
 * Sources: System V ABI (gABI) chapters 4 and 5; Xen docs/misc/pvh.pandoc for the note.
 */
#include <elf.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "machine/elf_image.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18

/* A program header in the 64-bit form. */
static void read_program_header(const struct elf_image *image, uint64_t offset, Elf64_Phdr *ph)
{
	Elf32_Phdr ph32;

	if (image->is_64bit) {
		memcpy(ph, image->data + offset, sizeof(*ph));
		return;
	}
	memcpy(&ph32, image->data + offset, sizeof(ph32));
	*ph = (Elf64_Phdr){
		.p_type = ph32.p_type,
		.p_flags = ph32.p_flags,
		.p_offset = ph32.p_offset,
		.p_vaddr = ph32.p_vaddr,
		.p_paddr = ph32.p_paddr,
		.p_filesz = ph32.p_filesz,
		.p_memsz = ph32.p_memsz,
		.p_align = ph32.p_align,
	};
}

/* Is [offset, offset+size) among the bytes at data? */
static bool at_hand(const struct elf_image *image, uint64_t offset, uint64_t size)
{
	return offset <= image->available && size <= image->available - offset;
}

static bool in_file(const struct elf_image *image, uint64_t offset, uint64_t size)
{
	return offset <= image->size && size <= image->size - offset;
}

/* Look for the PVH note in a PT_NOTE segment. Malformed notes end the search. */
static void read_notes(struct elf_image *image, const Elf64_Phdr *ph)
{
	uint64_t pos = ph->p_offset, end = ph->p_offset + ph->p_filesz;

	while (end - pos >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		uint64_t name, desc, next;

		memcpy(&note, image->data + pos, sizeof(note));
		name = pos + sizeof(note);
		desc = name + ALIGN_UP((uint64_t)note.n_namesz, 4u);
		next = desc + ALIGN_UP((uint64_t)note.n_descsz, 4u);
		if (desc > end || note.n_descsz > end - desc)
			return;
		if (note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && note.n_namesz == 4 &&
		    memcmp(image->data + name, "Xen", 4) == 0 && note.n_descsz >= 4) {
			image->has_pvh = true;
			image->pvh_entry = load_le32(image->data + desc);
		}
		if (next > end)
			return;
		pos = next;
	}
}

static int add_segment(struct elf_image *image, const Elf64_Phdr *ph, const char *name,
		       struct error *err)
{
	if (ph->p_memsz == 0)
		return 0;
	if (ph->p_filesz > ph->p_memsz)
		return error_set(
			err, 0,
			"kernel '%s' is corrupt: a segment is larger in the file than in memory",
			name);
	if (image->count == ELF_SEGMENT_MAX)
		return error_set(err, 0, "kernel '%s' has more than %d segments", name,
				 ELF_SEGMENT_MAX);
	image->segments[image->count++] = (struct elf_segment){
		.offset = ph->p_offset,
		.vaddr = ph->p_vaddr,
		.paddr = ph->p_paddr,
		.filesz = ph->p_filesz,
		.memsz = ph->p_memsz,
	};
	return 0;
}

/* Linux gives a physical entry point; others a virtual one: translate it through its segment. */
static void make_entry_physical(struct elf_image *image)
{
	for (unsigned i = 0; i < image->count; i++) {
		const struct elf_segment *s = &image->segments[i];

		if (image->entry - s->paddr < s->memsz)
			return;
	}
	for (unsigned i = 0; i < image->count; i++) {
		const struct elf_segment *s = &image->segments[i];

		if (image->entry - s->vaddr < s->memsz) {
			image->entry = image->entry - s->vaddr + s->paddr;
			return;
		}
	}
}

int elf_parse(struct elf_image *image, const uint8_t *data, size_t available, size_t size,
	      const char *name, struct error *err)
{
	uint64_t phoff;
	unsigned phnum, phentsize;

	memset(image, 0, sizeof(*image));
	image->data = data;
	image->size = size;
	image->available = available;
	if (available < sizeof(Elf32_Ehdr) || memcmp(data, ELFMAG, SELFMAG) != 0)
		return error_set(err, 0, "kernel '%s' is not an ELF file", name);
	image->is_64bit = data[EI_CLASS] == ELFCLASS64;
	if ((!image->is_64bit && data[EI_CLASS] != ELFCLASS32) || data[EI_DATA] != ELFDATA2LSB)
		return error_set(err, 0, "kernel '%s' is not an x86 ELF file", name);
	if (image->is_64bit) {
		Elf64_Ehdr eh;

		if (available < sizeof(eh))
			return error_set(err, 0,
					 "kernel '%s' is truncated: no room for its ELF header",
					 name);
		memcpy(&eh, data, sizeof(eh));
		image->machine = eh.e_machine;
		image->entry = eh.e_entry;
		phoff = eh.e_phoff;
		phnum = eh.e_phnum;
		phentsize = eh.e_phentsize;
	} else {
		Elf32_Ehdr eh;

		memcpy(&eh, data, sizeof(eh));
		image->machine = eh.e_machine;
		image->entry = eh.e_entry;
		phoff = eh.e_phoff;
		phnum = eh.e_phnum;
		phentsize = eh.e_phentsize;
	}
	if (image->machine != EM_386 && image->machine != EM_X86_64)
		return error_set(err, 0, "kernel '%s' is for another CPU (ELF machine %u, not x86)",
				 name, image->machine);
	if (phnum == 0)
		return error_set(err, 0, "kernel '%s' has no program headers: not an executable",
				 name);
	if (phentsize != (image->is_64bit ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return error_set(err, 0, "kernel '%s' is corrupt: program headers of %u bytes",
				 name, phentsize);
	if (!at_hand(image, phoff, (uint64_t)phnum * phentsize))
		return error_set(err, 0,
				 "kernel '%s' is truncated: its program headers lie beyond its end",
				 name);
	for (unsigned i = 0; i < phnum; i++) {
		Elf64_Phdr ph;

		read_program_header(image, phoff + (uint64_t)i * phentsize, &ph);
		if (ph.p_type == PT_INTERP || ph.p_type == PT_TLS)
			return error_set(err, 0, "'%s' is a program, not a kernel", name);
		if (ph.p_type != PT_LOAD && ph.p_type != PT_NOTE)
			continue;
		if (!in_file(image, ph.p_offset, ph.p_filesz))
			return error_set(err, 0,
					 "kernel '%s' is truncated: segment %u lies beyond its end",
					 name, i);
		if (ph.p_type == PT_NOTE && at_hand(image, ph.p_offset, ph.p_filesz))
			read_notes(image, &ph);
		else if (ph.p_type == PT_LOAD && add_segment(image, &ph, name, err))
			return -1;
	}
	if (image->count == 0)
		return error_set(err, 0, "kernel '%s' has nothing to load", name);
	make_entry_physical(image);
	return 0;
}

int elf_claim(const struct elf_image *image, struct boot *boot, const char *name, struct error *err)
{
	char what[64];

	for (unsigned i = 0; i < image->count; i++) {
		snprintf(what, sizeof(what), "segment %u", i);
		if (boot_claim(boot, image->segments[i].paddr, image->segments[i].memsz, what, err))
			return error_prefix(err, "kernel '%s'", name);
	}
	return 0;
}

/* Copy into memory that reads as zeroes, leaving pages of zeroes untouched: a kernel has
 * thousands of them, and each page touched costs the host a page. */
static void copy_sparse(uint8_t *to, const uint8_t *from, uint64_t size)
{
	static const uint8_t zeroes[PAGE_SIZE];

	for (uint64_t done = 0, n; done < size; done += n) {
		/* Up to the end of the destination's page. */
		n = MIN(size - done, PAGE_SIZE - ((uintptr_t)(to + done) & (PAGE_SIZE - 1)));
		if (memcmp(from + done, zeroes, n) != 0)
			memcpy(to + done, from + done, n);
	}
}

void elf_copy(const struct elf_image *image, struct boot *boot, uint64_t offset,
	      const uint8_t *data, size_t size)
{
	for (unsigned i = 0; i < image->count; i++) {
		const struct elf_segment *s = &image->segments[i];
		uint64_t start = MAX(offset, s->offset),
			 end = MIN(offset + size, s->offset + s->filesz);

		if (start < end)
			copy_sparse(boot_host(boot, s->paddr + (start - s->offset), end - start),
				    data + (start - offset), end - start);
	}
}

int elf_load(const struct elf_image *image, struct boot *boot, const char *name, struct error *err)
{
	if (elf_claim(image, boot, name, err))
		return -1;
	elf_copy(image, boot, 0, image->data, image->size);
	return 0;
}
