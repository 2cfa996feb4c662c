/* One logical processor of the machine: what entry.S knows by offset, then what C knows. */
#ifndef CPU_H
#define CPU_H

#include "wire.h"

#include "offsets.h"
#include <stddef.h>

#define PAGE 4096
#define CODE_ROOM (4 * PAGE)
#define LOG_ROOM (4 * PAGE)
#define STACK_ROOM (4 * PAGE)
#define MAX_HANDLERS 64

/* Not cleared with the rest of .bss. */
#define KEPT __attribute__((section(".bss.kept")))

/* Selectors of each processor's GDT. */
#define SELECTOR_DATA 0x10
#define SELECTOR_CODE 0x18
#define SELECTOR_USER_DATA 0x23
#define SELECTOR_USER_CODE 0x2b
#define SELECTOR_TSS 0x30

/* The registers of the physical APIC that a case can change and the baseline restores; not the ICR,
 * which cannot be written back without sending, and not the current count. */
#define APIC_WATCHED 37

/* What emitted code looks like: where each slot's instruction starts and ends. */
struct layout {
  u8 *start[MAX_SLOTS];
  u8 *end[MAX_SLOTS];
  u16 steps; /* of the main stream */
  u16 slots;
  u8 *base, *main_end;
};

struct cpu {
  u64 rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
  u8 *log, *log_end;
  void (*log_value)(void);
  volatile u32 deliveries;
  u32 index;
  struct cpu *self;
  u64 emitted_stack; /* RSP where emitted code was called */
  u64 host_stack;    /* what the VMCS holds as host RSP */

  u32 apic_id;
  const struct wire_case *record;
  const struct wire_vcpu *block;
  const struct wire_op *ops; /* of the main stream */
  struct layout layout;
  u8 *handler[MAX_HANDLERS]; /* emitted code, in the block's order */
  u8 expected_mode, mode; /* of the local APIC: what cases of this mode want, what it was last seen in */
  u8 shared_pages; /* the case was given a page that all share */
  u8 uncounted_cmci;   /* see apic_mask_uncounted */
  u8 vmcs_written;     /* an earlier case was at level vmx */
  u8 launched;         /* and a VM entry succeeded: VMRESUME is next */
  u8 cpl3; /* at level vmx, bit 0: the case's guest comes to CPL 3; bit 1: that of the case before did */
  u8 bitmap_rewritten; /* a VMM step changed the MSR bitmap */
  u32 image_fill, image_value; /* what lies under the words of `image` */
  u32 status; /* at the end of the case: RVI, SVI << 8 */
  u16 activity, blocking;
  u64 reach;     /* registers of the APIC that the case can have changed: reach.h */
  u32 registers; /* and how many it has */
  struct wire_register changed[APIC_WATCHED];
  u32 baseline[APIC_WATCHED];
  u32 present[APIC_WATCHED];
  u32 at_reset[APIC_WATCHED];
  u32 taken[8]; /* vectors of interrupts that came in root operation, since the case began */
  u32 base_at_reset; /* IA32_APIC_BASE[31:0] */
  u8 reports_reset;  /* the case asks for the registers after reset */
  u64 gdt[8];
  u32 tss[32];
  u8 *log_base;
  u8 *vmxon_region, *vmcs, *page, *image, *bitmap, *descriptor, *msr_areas, *code, *stack, *user_stack;
};

_Static_assert(offsetof(struct cpu, r15) == CPU_R15, "cpu.h");
_Static_assert(offsetof(struct cpu, log) == CPU_LOG, "cpu.h");
_Static_assert(offsetof(struct cpu, log_end) == CPU_LOG_END, "cpu.h");
_Static_assert(offsetof(struct cpu, log_value) == CPU_LOG_VALUE, "cpu.h");
_Static_assert(offsetof(struct cpu, deliveries) == CPU_DELIVERIES, "cpu.h");
_Static_assert(offsetof(struct cpu, self) == CPU_SELF, "cpu.h");
_Static_assert(offsetof(struct cpu, host_stack) == CPU_HOST_STACK, "cpu.h");
_Static_assert(offsetof(struct cpu, emitted_stack) == CPU_EMITTED_STACK, "cpu.h");
_Static_assert(sizeof(struct wire_event) == EVENT_BYTES, "cpu.h");

/* What start.S knows: where the batch lies, and the vector of a start-up IPI that leads to it. */
struct boot {
  u64 batch;
  u64 start_vector;
};
extern const struct boot boot;

extern struct cpu cpus[MAX_CPUS];
extern u32 under_hypervisor; /* another one runs below this VMM */
extern u32 vmx_state;        /* VMX_ROOT, or why not */
extern u64 guest_idt[512], host_idt[512];
#endif
