/* The VMM: a VMCS from a processor's block, VM entries, and what follows from each VM exit. */
#ifndef VMM_H
#define VMM_H

#include "cpu.h"

/* Fills page, MSR bitmap and descriptor and emits the guest; 0 where the block does not fit. */
int vmm_prepare(struct cpu *c, const struct wire_case *record, const struct wire_vcpu *block);
void vmm_run(struct cpu *c);
void vmm_init(void);


extern u64 guard_ticks;
#endif
