/* SPDX-License-Identifier: MIT */
/*
 * The CPU's saved state: the table of struct x86_cpu_state. It is here and not in x86/, which is freestanding.
 *
 * The registered object is a copy that before_save fetches from the engine and after_load gives back to it.
 */
#include <errno.h>

#include "base/util.h"
#include "vm/vm_private.h"

struct cpu_image {
	struct vcpu *vcpu;
	struct x86_cpu_state cpu;
};

#define CPU STATE_FIELD
static const struct state_field segment_fields[] = {
	CPU(struct x86_segment, selector),
	CPU(struct x86_segment, attr),
	CPU(struct x86_segment, limit),
	CPU(struct x86_segment, base),
	STATE_END,
};

static const struct state_field table_fields[] = {
	CPU(struct x86_table, base),
	CPU(struct x86_table, limit),
	STATE_END,
};
#undef CPU

#define CPU(member) STATE_FIELD(struct x86_cpu_state, member)
#define CPU_ARRAY(member) STATE_ARRAY(struct x86_cpu_state, member)
static const struct state_field cpu_fields[] = {
	CPU_ARRAY(gpr),
	CPU(rip),
	CPU(rflags),
	STATE_STRUCTS(struct x86_cpu_state, seg, segment_fields),
	STATE_SUBSTRUCT(struct x86_cpu_state, gdt, table_fields),
	STATE_SUBSTRUCT(struct x86_cpu_state, idt, table_fields),
	CPU(cr0),
	CPU(cr2),
	CPU(cr3),
	CPU(cr4),
	CPU(cr8),
	CPU(efer),
	CPU_ARRAY(dr),
	CPU(xcr0),
	CPU(xss),
	CPU(star),
	CPU(lstar),
	CPU(cstar),
	CPU(sfmask),
	CPU(kernel_gs_base),
	CPU(sysenter_cs),
	CPU(sysenter_esp),
	CPU(sysenter_eip),
	CPU(pat),
	CPU(tsc_aux),
	CPU(misc_enable),
	CPU(debugctl),
	CPU(spec_ctrl),
	CPU(mtrr_def_type),
	CPU_ARRAY(mtrr_fixed),
	CPU_ARRAY(mtrr_phys_base),
	CPU_ARRAY(mtrr_phys_mask),
	CPU(mcg_status),
	CPU(tsc_offset),
	CPU(tsc_adjust),
	CPU(mp_state),
	CPU(sti_shadow),
	CPU(mov_ss_shadow),
	CPU(nmi_masked),
	CPU(nmi_pending),
	CPU(event_pending),
	CPU(event_vector),
	CPU(event_has_error),
	CPU(event_error),
	STATE_BUFFER(struct x86_cpu_state, xsave),
	STATE_END,
};
#undef CPU
#undef CPU_ARRAY

static const struct state_field image_fields[] = {
	STATE_SUBSTRUCT(struct cpu_image, cpu, cpu_fields),
	STATE_END,
};

static void before_save(void *object)
{
	struct cpu_image *image = object;
	struct vcpu *vcpu = image->vcpu;

	vcpu->vm->engine->get_state(vcpu, &image->cpu);
}

static int after_load(void *object, struct error *err)
{
	struct cpu_image *image = object;
	struct vcpu *vcpu = image->vcpu;

	if (image->cpu.mp_state > X86_MP_WAIT_FOR_SIPI)
		return error_set(err, EINVAL, "CPU %u: bad run state %u", vcpu->index,
				 image->cpu.mp_state);
	vcpu->vm->engine->set_state(vcpu, &image->cpu);
	vcpu_state_loaded(vcpu, &image->cpu);
	return 0;
}

static const struct state_table cpu_table = {
	.name = "cpu",
	.version = 1,
	.fields = image_fields,
	.before_save = before_save,
	.after_load = after_load,
};

void vcpu_state_register(struct vcpu *vcpu)
{
	struct cpu_image *image = aligned_alloc(64, ALIGN_UP(sizeof(*image), (size_t)64));

	if (!image)
		return;
	memset(image, 0, sizeof(*image));
	image->vcpu = vcpu;
	vm_add_cleanup(vcpu->vm, free, image);
	vm_state_register(vcpu->vm, &cpu_table, vcpu->index, image);
}
