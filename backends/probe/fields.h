/* What the fields of a processor's VMCS are to hold. Where another hypervisor runs below, a VMWRITE is a
 * VM exit of its own: so fields are set here, and before VM entry those are written that hold another value.
 * Elsewhere VMWRITE comes at once: it costs less than to find out whether it is needed. */
#ifndef FIELDS_H
#define FIELDS_H

#include "cpu.h"

/* For every case from now on, unless it sets the field itself. */
void field_base(const struct cpu *c, u32 field, u64 value);
/* For this case. */
void field_set(const struct cpu *c, u32 field, u64 value);
/* What a field holds, or will hold at VM entry. */
u64 field_get(const struct cpu *c, u32 field);
/* A field of the guest-state area has just been read, and the next VM entry is to set it again. */
void field_was_read(const struct cpu *c, u32 field, u64 value);
/* Sets what the case before has set to its base again. */
void fields_restore(const struct cpu *c);
void fields_write(const struct cpu *c);

#endif
