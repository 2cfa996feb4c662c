/* What the fields of a processor's VMCS are to hold. Where another hypervisor runs below, a VMWRITE is a
 * VM exit of its own: so fields are set here, and before VM entry those are written that hold another value. */
#ifndef FIELDS_H
#define FIELDS_H

#include "cpu.h"

void field_set(const struct cpu *c, u32 field, u64 value);
/* What a field holds, or will hold at VM entry. */
u64 field_get(const struct cpu *c, u32 field);
/* A field of the guest-state area has just been read, and the next VM entry is to set it again. */
void field_was_read(const struct cpu *c, u32 field, u64 value);
void fields_write(const struct cpu *c);

#endif
