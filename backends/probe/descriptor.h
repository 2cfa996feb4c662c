/* Posted-interrupt descriptors, and the PID-pointer table that leads to them. */
#ifndef DESCRIPTOR_H
#define DESCRIPTOR_H

#include "cpu.h"

extern u64 pid_pointers[PAGE / 8];

/* Clears the processor's descriptor and gives it a valid entry in the table. */
void descriptor_prepare(struct cpu *c);
int descriptor_is_used(const struct cpu *c);
void descriptor_write_item(struct cpu *c, u32 what, u32 how, u64 value);

#endif
