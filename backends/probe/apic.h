/* The physical local APIC, as root operation uses it: modes, the baseline that every case starts from,
 * and the interrupts that the probe itself needs. */
#ifndef APIC_H
#define APIC_H

#include "cpu.h"

void apic_init(struct cpu *c);
int apic_set_mode(struct cpu *c, u8 mode);
void apic_eoi(void);
void apic_raise(u8 vector);
/* WRMSR of the ICR, or its two halves in xAPIC mode: physical destination. */
void apic_send(u32 apic_id, u32 command);
void apic_drain(void);
void apic_start_others(void);

/* Takes the present registers as the baseline, after a change of mode. */
void apic_rebase(struct cpu *c);
/* Registers that differ from the baseline, appended to `to`; returns their number. */
u32 apic_changes(struct cpu *c, struct wire_register *to);
/* An LVT CMCI entry that is there though the version register does not count it. */
void apic_mask_uncounted(const struct cpu *c);
/* IA32_APIC_BASE and the watched registers as reset left them. */
u32 apic_after_reset(const struct cpu *c, struct wire_register *to);

/* INIT and two start-up IPIs to one processor, which _start then leads back into its case. */
void apic_restart(u32 vcpu);
extern struct cpu *volatile restarting;
/* Errors leave the ESR; apic_restore does it too. */
void apic_clear_errors(const struct cpu *c);
/* 0 where the baseline could not be reached. */
int apic_restore(struct cpu *c);

#endif
