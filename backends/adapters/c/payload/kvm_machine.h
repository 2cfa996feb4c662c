/* A virtual machine of KVM for one case: one processor in 64-bit mode, its local APIC, and nothing else. */
#ifndef KVM_MACHINE_H
#define KVM_MACHINE_H

#include <linux/kvm.h>

#include "payload_steps.h"

/* The guest's memory, mapped one to one. */
#define MEMORY 0x200000u
#define GDT 0x1000u
#define DATA_SELECTOR 16
#define PAGE_TABLES 0x2000u /* six pages: 4 GBytes in pages of 2 MBytes */
#define IDT 0x8000u
#define CODE 0x10000u
#define TABLE 0x20000u
#define TABLE_ROOM 0x10000u
#define EVENTS 0x40000u
#define EVENTS_ROOM 0x20000u
#define STACK 0x80000u
#define PAYLOAD 0x80000u /* unless the command line says another place */

struct machine {
  int kvm, vm, vcpu;
  struct kvm_cpuid2 *cpuid;
  u8 *memory;
  struct kvm_run *run;
  size_t run_size;
};

/* Each returns what is wrong, or NULL. */
const char *machine_open(struct machine *m); /* once */
const char *machine_start(struct machine *m, const struct x2a_setup *setup, u64 rip);
const char *machine_run(const struct machine *m,
                        bool *ended); /* up to a write to port E9H, or for some seconds */
const char *machine_enter_at_first_step(const struct machine *m, const struct x2a_setup *setup);
void machine_stop(struct machine *m);

/* IA32_APIC_BASE and the registers of the local APIC that a final state tells of, as MSRs; how many. */
unsigned machine_apic(const struct machine *m, struct x2a_register to[64]);

#endif
