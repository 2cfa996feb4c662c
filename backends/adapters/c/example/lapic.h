/* What the two halves of the local APIC share. */
#ifndef LAPIC_H
#define LAPIC_H

#include "machine.h"

#define SVR_ENABLED 0x100u
#define LVT_MASKED 0x10000u
#define LOWEST_VECTOR 16
#define ERROR_SEND_ILLEGAL_VECTOR 0x20u
#define ERROR_RECEIVED_ILLEGAL_VECTOR 0x40u

/* lapic.c */
u32 *lapic_lvt(struct lapic *l, u32 msr);
void lapic_note_error(struct lapic *l, u32 error);
u64 lapic_current_count(const struct lapic *l);
void lapic_start_timer(struct lapic *l, u32 count);
void lapic_set_timer_entry(struct lapic *l, u32 value);

#endif
