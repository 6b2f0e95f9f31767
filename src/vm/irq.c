/* SPDX-License-Identifier: MIT */
/* Message-signalled interrupts: a write to 0xfeexxxxx (SDM vol. 3, 11.11), handed to the board's APIC bus. */
#include "vm/irq.h"

#include "base/log.h"
#include "vm/vm.h"

void msi_send(struct vm *vm, uint64_t address, uint32_t data)
{
	trace(TRACE_IRQ, "msi address=0x%llx data=0x%x", (unsigned long long)address, data);
	if (vm->msi_handler)
		vm->msi_handler(vm->msi_opaque, address, data);
}
