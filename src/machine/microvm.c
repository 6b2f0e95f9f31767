/* SPDX-License-Identifier: MIT */
/*
 * The `microvm` board: a small PC without firmware.
 *
 *     0x00000000  RAM, up to 3 GiB (0x9fc00-0xfffff is kept back as on every PC; ACPI tables at
 *                 0xe0000, MP table at 0xf0000)
 *     0xc0000000  PCI memory, up to ECAM
 *     0xe0000000  PCI configuration space (ECAM), 256 MiB
 *     0xfec00000  I/O APIC
 *     0xfee00000  local APICs, message-signalled interrupts
 *     0x100000000 the rest of RAM
 *
 *     port 0x20, 0xa0  PIC           port 0x3f8  serial port, IRQ 4
 *     port 0x40, 0x61  PIT, IRQ 0    port 0x510  fw_cfg
 *     port 0x60, 0x64  8042, IRQ 1   port 0x600  ACPI power management, IRQ 9
 *     port 0x70        RTC, IRQ 8    port 0xcf8  PCI configuration; 0xcf9 reset
 *
 * PCI slots are filled in the order of add_devices(). The kernel is loaded by boot.c, and loaded
 * again at every reset, into memory that has been emptied.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "block/image.h"
#include "char/char.h"
#include "device/acpi_pm.h"
#include "device/debug_exit.h"
#include "device/fw_cfg.h"
#include "device/i8042.h"
#include "device/i8254.h"
#include "device/ioapic.h"
#include "device/lapic.h"
#include "device/mc146818.h"
#include "device/pc_testdev.h"
#include "device/pci.h"
#include "device/pci_testdev.h"
#include "device/uart16550.h"
#include "device/virtio_devices.h"
#include "machine/acpi.h"
#include "machine/boards.h"
#include "machine/boot.h"
#include "machine/cpu_model.h"
#include "machine/dsdt.h"
#include "machine/pc_interrupts.h"
#include "net/net.h"

#define EBDA_BASE 0x9fc00ull
#define ACPI_BASE 0xe0000ull
#define MPTABLE_BASE 0xf0000ull
#define BIOS_END 0x100000ull
#define PCI_MMIO_BASE 0xc0000000ull
#define PCI_MMIO_SIZE 0x20000000ull
#define PCI_ECAM_BASE 0xe0000000ull
#define PCI_ECAM_SIZE 0x10000000ull
#define PCI_IO_BASE 0xc000u
#define PCI_IO_SIZE 0x4000u
#define HIGH_RAM_BASE GIB(4)
#define COM1_BASE 0x3f8u
#define LAPIC_TIMER_HZ 1000000000ull

enum isa_irq { IRQ_TIMER = 0, IRQ_KEYBOARD = 1, IRQ_COM1 = 4, IRQ_SCI = 9, IRQ_RTC = 8 };

struct microvm {
	struct vm *vm;
	struct pc_interrupts interrupts;
	struct pci_bus *pci;
	struct acpi_pm *pm;
	struct fw_cfg *fw_cfg;
	struct char_backend *console;
	struct char_backend *virtio_consoles[MACHINE_DEVICE_MAX];
	unsigned virtio_console_count;
	char *kernel, *initrd, *append; /* kept for reloading */
	struct boot boot;
};

/* ---- memory map and tables ---- */

static void add_range(struct boot *boot, uint64_t base, uint64_t size, uint32_t type)
{
	if (size > 0)
		boot->ranges[boot->range_count++] =
			(struct memory_range){ .base = base, .size = size, .type = type };
}

static void describe_memory(struct boot *boot, uint64_t ram)
{
	uint64_t low = MIN(ram, GUEST_RAM_LOW_MAX);

	boot->range_count = 0;
	add_range(boot, 0, EBDA_BASE, MEMORY_RAM);
	add_range(boot, EBDA_BASE, 0xa0000 - EBDA_BASE, MEMORY_RESERVED);
	add_range(boot, ACPI_BASE, BIOS_END - ACPI_BASE, MEMORY_RESERVED);
	add_range(boot, BIOS_END, low - BIOS_END, MEMORY_RAM);
	add_range(boot, PCI_ECAM_BASE, PCI_ECAM_SIZE, MEMORY_RESERVED);
	add_range(boot, HIGH_RAM_BASE, ram - low, MEMORY_RAM);
}

static int write_tables(struct microvm *m, struct error *err)
{
	struct acpi_config config = {
		.cpus = m->vm->vcpu_count,
		.lapic_base = LAPIC_DEFAULT_BASE,
		.ioapic_base = IOAPIC_DEFAULT_BASE,
		.ioapic_id = (uint8_t)m->vm->vcpu_count,
		.sci_irq = IRQ_SCI,
		.pm_base = ACPI_PM_DEFAULT_BASE,
		.ecam_base = PCI_ECAM_BASE,
		.ecam_last_bus = (PCI_ECAM_SIZE >> 20) - 1,
		.dsdt = dsdt_aml,
		.dsdt_size = dsdt_aml_size,
	};
	uint8_t *acpi =
		guest_memory_host(&m->vm->memory, ACPI_BASE, MPTABLE_BASE - ACPI_BASE, true);
	uint8_t *mp =
		guest_memory_host(&m->vm->memory, MPTABLE_BASE, BIOS_END - MPTABLE_BASE, true);
	size_t used;

	for (unsigned n = 0; n < PC_PCI_LINES; n++)
		config.pci_gsi[n] = (uint8_t)(PC_PCI_GSI + n);
	for (unsigned slot = 1; slot < 32; slot++)
		if (pci_device_present(m->pci, slot))
			config.pci_slots |= BIT(slot);
	if (acpi_build(&config, acpi, ACPI_BASE, MPTABLE_BASE - ACPI_BASE, &m->boot.rsdp, &used,
		       err))
		return -1;
	return mptable_build(&config, mp, MPTABLE_BASE, BIOS_END - MPTABLE_BASE, &used, err);
}

/* ---- what firmware would do ---- */

/* RAM is write-back, the hole for devices below 4 GiB uncached (SDM vol. 3, 12.11). */
static void set_memory_types(struct x86_cpu_state *state)
{
	const uint64_t enable = 0x800, fixed_enable = 0x400, write_back = 6, uncached = 0;
	const uint64_t mask_1g =
		0x3fffc0000000; /* within the 46 address bits a guest has at most */

	state->mtrr_def_type = enable | fixed_enable | write_back;
	for (unsigned i = 0; i < ARRAY_SIZE(state->mtrr_fixed); i++)
		state->mtrr_fixed[i] = 0x0606060606060606;
	/* 0xa0000-0xbffff, the window of a display */
	state->mtrr_fixed[2] = 0;
	state->mtrr_phys_base[0] = PCI_MMIO_BASE | uncached;
	state->mtrr_phys_mask[0] = mask_1g | enable;
}

static void set_boot_state(struct microvm *m)
{
	struct vm *vm = m->vm;
	uint64_t physical = (1ull << vm->cpu_model.maxphyaddr) - 1;

	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		struct x86_cpu_state *state = &vm->vcpus[i]->boot_state;

		if (i == 0)
			*state = m->boot.state;
		else
			x86_cpu_reset(state, false);
		set_memory_types(state);
		state->mtrr_phys_mask[0] &= physical;
		vm->vcpus[i]->has_boot_state = true;
	}
}

/* Assign PCI resources, write the tables, load the kernel: RAM is empty. */
static int prepare(struct microvm *m, struct error *err)
{
	if (pci_assign_bars(m->pci, PCI_MMIO_BASE, PCI_MMIO_SIZE, PCI_IO_BASE, PCI_IO_SIZE, true,
			    err) ||
	    write_tables(m, err) || boot_load(&m->boot, err))
		return -1;
	set_boot_state(m);
	log_info("kernel '%s': %s at 0x%llx", m->kernel, m->boot.protocol,
		 (unsigned long long)m->boot.kernel_address);
	return 0;
}

/* All vCPUs are stopped, the devices have been reset. */
static void reset(struct vm *vm)
{
	struct microvm *m = vm->board;
	struct guest_memory *memory = &vm->memory;
	uint64_t low = MIN(memory->ram_size, GUEST_RAM_LOW_MAX);
	struct error err;

	pci_bus_reset(m->pci);
	guest_memory_clear(memory);
	if (prepare(m, &err)) {
		log_error("cannot restart the machine: %s", err.text);
		vm_quit(vm);
	}
	guest_memory_written(vm, 0, low);
	if (memory->ram_size > low)
		guest_memory_written(vm, HIGH_RAM_BASE, memory->ram_size - low);
}

/* ---- devices ---- */

static int add_console(struct microvm *m, const struct machine_config *config, struct error *err)
{
	struct uart16550 *uart;

	m->console = char_create(m->vm, config->console ? config->console : "stdio",
				 config->console_escape, config->console_opaque, err);
	if (!m->console)
		return -1;
	return uart16550_create(m->vm, 0, COM1_BASE, pc_gsi(&m->interrupts, IRQ_COM1), m->console,
				&uart, err);
}

static int add_platform(struct microvm *m, const struct machine_config *config, struct error *err)
{
	struct vm *vm = m->vm;
	struct pc_interrupts *irqs = &m->interrupts;
	struct i8254 *pit;
	struct mc146818 *rtc;
	struct i8042 *keyboard;

	if (pc_interrupts_create(irqs, vm, IOAPIC_DEFAULT_BASE, (uint8_t)vm->vcpu_count, err) ||
	    i8254_create(vm, pc_gsi(irqs, IRQ_TIMER), &pit, err) ||
	    mc146818_create(vm, pc_gsi(irqs, IRQ_RTC), &rtc, err) ||
	    i8042_create(vm, pc_gsi(irqs, IRQ_KEYBOARD), &keyboard, err) ||
	    add_console(m, config, err) || fw_cfg_create(vm, &m->fw_cfg, err))
		return -1;
	m->pci = pci_bus_create(vm, err);
	if (!m->pci)
		return -1;
	for (unsigned n = 0; n < PC_PCI_LINES; n++) {
		struct irq_line line = pc_pci_line(irqs, n);

		pci_bus_set_irq(m->pci, n, &line, (uint8_t)pc_pci_isa_irq(n));
	}
	if (pci_bus_add_ecam(m->pci, PCI_ECAM_BASE, PCI_ECAM_SIZE, err))
		return -1;
	/* After PCI: its reset register 0xcf9 lies within the configuration ports. */
	return acpi_pm_create(vm, ACPI_PM_DEFAULT_BASE, pc_gsi(irqs, IRQ_SCI), &m->pm, err);
}

static int add_disk(struct microvm *m, const struct machine_disk *disk, struct error *err)
{
	struct block_options options = { .readonly = disk->readonly, .snapshot = disk->snapshot };
	struct block_image *image;

	if (strlen(disk->path) >= sizeof(options.path))
		return error_set(err, 0, "cannot open disk '%.64s...': the name is too long",
				 disk->path);
	snprintf(options.path, sizeof(options.path), "%s", disk->path);
	snprintf(options.format, sizeof(options.format), "%s", disk->format ? disk->format : "raw");
	image = block_open(&options, err);
	if (!image)
		return -1;
	if (!virtio_blk_create(m->pci, -1, image, NULL, err)) {
		block_close(image);
		return -1;
	}
	return 0;
}

static int add_nic(struct microvm *m, unsigned index, const struct machine_nic *nic,
		   struct error *err)
{
	const uint8_t mac[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, (uint8_t)(0x56 + index) };
	char spec[64 + MACHINE_HOSTFWD_MAX * 32];
	struct net_backend *net;
	size_t used = (size_t)snprintf(spec, 64, "%s", nic->kind);

	for (unsigned i = 0; i < nic->hostfwd_count && i < MACHINE_HOSTFWD_MAX; i++)
		used += (size_t)snprintf(spec + used, sizeof(spec) - used, ",hostfwd=%s:%u:%u",
					 nic->hostfwds[i].udp ? "udp" : "tcp",
					 nic->hostfwds[i].host_port, nic->hostfwds[i].guest_port);
	if (net_create(m->vm, spec, &net, err))
		return -1;
	if (!net)
		return 0;
	if (!virtio_net_create(m->pci, -1, net, mac, err)) {
		net_destroy(net);
		return -1;
	}
	return 0;
}

/* ---- devices by name: --device KIND[,PARAMS] ---- */

/* The number after "name=" in a comma-separated list, or otherwise if it is not there. */
static int parameter(const char *params, const char *name, unsigned long max, unsigned long *value,
		     struct error *err)
{
	size_t length = strlen(name);

	for (const char *p = params; p && *p; p += strcspn(p, ","), p += *p == ',') {
		char *end;

		if (strncmp(p, name, length) != 0 || p[length] != '=')
			continue;
		*value = strtoul(p + length + 1, &end, 0);
		if (end == p + length + 1 || (*end && *end != ',') || *value > max)
			return error_set(err, 0, "'%s' is not a number up to 0x%lx in '%s'", name,
					 max, params);
	}
	return 0;
}

/* Every word of params must be NAME=... with a name from the list. */
static int check_parameters(const char *kind, const char *params, const char *const *names,
			    struct error *err)
{
	for (const char *p = params; p && *p; p += strcspn(p, ","), p += *p == ',') {
		size_t length = strcspn(p, "=,");
		bool known = false;

		for (const char *const *name = names; *name; name++)
			known |= strlen(*name) == length && strncmp(*name, p, length) == 0 &&
				 p[length] == '=';
		if (!known)
			return error_set(err, 0, "device %s has no parameter '%.*s'", kind,
					 (int)strcspn(p, ","), p);
	}
	return 0;
}

static int add_debug_exit(struct microvm *m, const char *params, struct error *err)
{
	static const char *const names[] = { "iobase", "iosize", NULL };
	unsigned long base = DEBUG_EXIT_DEFAULT_BASE, size = DEBUG_EXIT_DEFAULT_SIZE;

	if (check_parameters("isa-debug-exit", params, names, err) ||
	    parameter(params, "iobase", 0xffff, &base, err) ||
	    parameter(params, "iosize", 8, &size, err))
		return -1;
	return debug_exit_create(m->vm, (uint16_t)base, (uint16_t)size, err);
}

static int add_pc_testdev(struct microvm *m, const char *params, struct error *err)
{
	static const char *const names[] = { NULL };
	struct irq_line lines[PC_TESTDEV_LINES];

	if (check_parameters("pc-testdev", params, names, err))
		return -1;
	for (unsigned n = 0; n < PC_TESTDEV_LINES; n++)
		lines[n] = pc_gsi(&m->interrupts, n);
	return pc_testdev_create(m->vm, lines, err);
}

static int add_pci_testdev(struct microvm *m, const char *params, struct error *err)
{
	static const char *const names[] = { NULL };

	if (check_parameters("pci-testdev", params, names, err))
		return -1;
	return pci_testdev_create(m->pci, -1, err) ? 0 : -1;
}

/* params: where its far end is on the host, as for --console. */
static int add_virtio_console(struct microvm *m, const char *params, struct error *err)
{
	struct char_backend *chr = char_create(m->vm, params ? params : "none", NULL, NULL, err);

	if (!chr)
		return -1;
	m->virtio_consoles[m->virtio_console_count++] = chr;
	return virtio_console_create(m->pci, -1, chr, err) ? 0 : -1;
}

static const struct device_kind {
	const char *name;
	int (*add)(struct microvm *m, const char *params, struct error *err);
} device_kinds[] = {
	{ "isa-debug-exit", add_debug_exit },
	{ "pc-testdev", add_pc_testdev },
	{ "pci-testdev", add_pci_testdev },
	{ "virtio-console", add_virtio_console },
};

static int add_device(struct microvm *m, const struct machine_device *device, struct error *err)
{
	for (unsigned i = 0; i < ARRAY_SIZE(device_kinds); i++)
		if (strcmp(device_kinds[i].name, device->kind) == 0)
			return device_kinds[i].add(m, device->params, err);
	return error_set(
		err, 0,
		"unknown device '%s' (there are isa-debug-exit, pc-testdev, pci-testdev and "
		"virtio-console)",
		device->kind);
}

static int add_devices(struct microvm *m, const struct machine_config *config, struct error *err)
{
	for (unsigned i = 0; i < config->nic_count; i++)
		if (add_nic(m, i, &config->nics[i], err))
			return -1;
	if (!virtio_rng_create(m->pci, -1, err))
		return -1;
	for (unsigned i = 0; i < config->disk_count; i++)
		if (add_disk(m, &config->disks[i], err))
			return -1;
	for (unsigned i = 0; i < config->device_count; i++)
		if (add_device(m, &config->devices[i], err))
			return -1;
	return 0;
}

/* fw_cfg: the memory map and what was loaded (CPU count and RAM size are there already). */
static int fill_fw_cfg(struct microvm *m, struct error *err)
{
	struct {
		uint64_t base, size;
		uint32_t type;
	} __attribute__((packed)) e820[BOOT_RANGE_MAX];
	const struct boot *boot = &m->boot;

	for (unsigned i = 0; i < boot->range_count; i++) {
		e820[i].base = boot->ranges[i].base;
		e820[i].size = boot->ranges[i].size;
		e820[i].type = boot->ranges[i].type;
	}
	if (fw_cfg_add_file(m->fw_cfg, "etc/e820", e820, boot->range_count * sizeof(e820[0]),
			    err) ||
	    fw_cfg_add_u32(m->fw_cfg, FW_CFG_KERNEL_ADDR, (uint32_t)boot->kernel_address, err) ||
	    fw_cfg_add_u32(m->fw_cfg, FW_CFG_INITRD_ADDR, (uint32_t)boot->initrd_address, err) ||
	    fw_cfg_add_u32(m->fw_cfg, FW_CFG_INITRD_SIZE, (uint32_t)boot->initrd_size, err) ||
	    fw_cfg_add_u32(m->fw_cfg, FW_CFG_CMDLINE_ADDR, (uint32_t)boot->cmdline_address, err) ||
	    fw_cfg_add_u32(m->fw_cfg, FW_CFG_CMDLINE_SIZE, (uint32_t)boot->cmdline_size, err))
		return -1;
	return fw_cfg_add_string(m->fw_cfg, FW_CFG_CMDLINE_DATA, m->append, err);
}

/* ---- life ---- */

static void cleanup(void *opaque)
{
	struct microvm *m = opaque;

	if (m->pci)
		pci_bus_destroy(m->pci);
	for (unsigned i = 0; i < m->virtio_console_count; i++)
		char_destroy(m->virtio_consoles[i]);
	if (m->console)
		char_destroy(m->console);
	free(m->kernel);
	free(m->initrd);
	free(m->append);
	free(m);
}

static int build(struct microvm *m, const struct machine_config *config, struct error *err)
{
	struct vm *vm = m->vm;
	struct cpu_source source;

	m->kernel = config->kernel ? strdup(config->kernel) : NULL;
	m->initrd = config->initrd ? strdup(config->initrd) : NULL;
	m->append = strdup(config->append ? config->append : "");
	if ((config->kernel && !m->kernel) || (config->initrd && !m->initrd) || !m->append)
		return error_set(err, 0, "out of memory");
	m->boot.memory = &vm->memory;
	m->boot.kernel = m->kernel;
	m->boot.initrd = m->initrd;
	m->boot.append = m->append;
	describe_memory(&m->boot, vm->memory.ram_size);
	cpu_source_host(&source);
	if (cpu_model_build(&vm->cpu_model, config->cpu, config->cpus, &source, vm->engine,
			    vm_tsc_frequency(vm), LAPIC_TIMER_HZ, err))
		return -1;
	if (HIGH_RAM_BASE + vm->memory.ram_size > 1ull << vm->cpu_model.maxphyaddr)
		return error_set(
			err, 0,
			"memory of %llu GiB is more than a CPU with %u address bits reaches",
			(unsigned long long)vm->memory.ram_size >> 30, vm->cpu_model.maxphyaddr);
	return add_platform(m, config, err) || add_devices(m, config, err) || prepare(m, err) ||
			       fill_fw_cfg(m, err) ?
		       -1 :
		       0;
}

int microvm_create(struct vm **out, const struct machine_config *config, struct error *err)
{
	struct vm_config vm_config = {
		.cpus = config->cpus,
		.memory = config->memory,
		.no_reboot = config->no_reboot,
		.engine_options = config->engine_options,
		.profile = config->profile,
		.perf_map = config->perf_map,
	};
	const struct engine *engine = engine_find(config->engine ? config->engine : "auto", err);
	struct microvm *m;
	struct vm *vm;

	if (!engine)
		return -1;
	if (!config->kernel)
		return error_set(err, 0,
				 "no kernel given: the microvm board boots one directly (-k FILE)");
	if (config->memory < MIB(2))
		return error_set(err, 0, "a microvm needs at least 2 MiB of memory");
	if (config->name)
		snprintf(vm_config.name, sizeof(vm_config.name), "%s", config->name);
	else
		snprintf(vm_config.name, sizeof(vm_config.name), "microvm-%d", (int)getpid());
	if (vm_create(&vm, &vm_config, engine, err))
		return -1;
	m = calloc(1, sizeof(*m));
	if (!m) {
		vm_destroy(vm);
		return error_set(err, 0, "out of memory");
	}
	m->vm = vm;
	vm->board = m;
	vm->board_reset = reset;
	vm_add_cleanup(vm, cleanup, m);
	if (build(m, config, err)) {
		vm_destroy(vm);
		return -1;
	}
	*out = vm;
	return 0;
}
