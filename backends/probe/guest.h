/* The guest: instructions emitted from operations, and its interrupt handlers. */
#ifndef GUEST_H
#define GUEST_H

#include "cpu.h"

struct trap_frame {
  u64 r14, r13, rbx, r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax;
  u64 vector, error, rip, cs, rflags, rsp, ss;
};

/* Emits all streams of the processor's block; 0 where they do not fit. */
int guest_emit(struct cpu *c);
void call_emitted(const u8 *code, struct cpu *c);
void log_value(void);

/* The slot and AT_ flags of an address in the main stream or a handler's. */
struct position {
  u16 slot;
  u8 at;
};
struct position guest_locate(const struct cpu *c, u64 rip, u64 r14);

void *log_event(struct cpu *c, u8 type, u16 slot, u64 size);
void guest_log_end(struct cpu *c);

static inline int is_vmm(const struct wire_op *op) { return op->op >= OP_FIRST_VMM; }

/* Level guest: the main stream runs in root operation, with the guest's interrupt table. */
void guest_run_in_root(struct cpu *c);

/* All processors' barriers, before a case. */
void guest_clear_barriers(void);
extern u32 guest_yields; /* see struct batch */
#define GUEST_TURNS 4    /* of each other processor, within which it comes to where it waits */

#define STUB_BYTES 16 /* of each of the 256 interrupt stubs of a table */
extern u8 guest_stubs[], log_value_end[];

#endif
