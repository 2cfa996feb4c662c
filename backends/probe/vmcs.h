/* The VMCS of a processor: the base that every case starts from, and what a block puts over it. */
#ifndef VMCS_H
#define VMCS_H

#include "cpu.h"

/* TSC ticks that a guest has before it counts as one that does not return; 0: no guard. */
extern u64 guard_ticks;

void vmcs_init(void);
/* Makes the processor's VMCS current, once, and sets the base. */
void vmcs_prepare(struct cpu *c);
void vmcs_write_item(struct cpu *c, u32 what, u32 how, u64 value);
void vmcs_arm_guard(const struct cpu *c);
/* Whether a field that comes with a control is there; writing one that is not is an error that some
 * machines log at length. */
int vmcs_has(u32 field);

#endif
