/* A processor from its first instruction in C to VMX root operation. */
#ifndef PROCESSOR_H
#define PROCESSOR_H

#include "cpu.h"

/* Once, before the first processor_init. */
void processors_init(void);
void processor_load_tables(struct cpu *c);
void processor_init(struct cpu *c, u32 index);
/* Whether AVX-512 can be used now. */
int processor_has_wide_registers(void);

#endif
