/* The VMM: a processor made ready for a case, VM entries, and what follows from each VM exit. */
#ifndef VMM_H
#define VMM_H

#include "cpu.h"

/* 0 where the block does not fit. */
int vmm_prepare(struct cpu *c, const struct wire_case *record, const struct wire_vcpu *block);
void vmm_run(struct cpu *c);

#endif
