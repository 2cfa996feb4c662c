/* The guest payload: guest code that a VMM loads anywhere, which performs a case's steps.
 *
 * Load payload.bin at any 16-byte aligned guest address, a struct payload elsewhere, and start the guest in
 * 64-bit mode at CPL 0 with RIP at the payload's first byte, RDI at the struct, IF = 0, a stack, CS and SS in
 * its GDT. It writes the steps' instructions to `code`, an IDT to `idt`, and executes them; what it sees goes to
 * `events`. All addresses are the guest's linear ones. Operations and events are those of wire.h.
 *
 * With PAYLOAD_STOPS it ends once before, as it ends behind the last step, with `state` PAYLOAD_READY. The VMM
 * then makes the case's state, and enters the guest at `entry` with RAX, RCX and RDX as `rax`, `rcx` and `rdx`
 * say, R12 the selector in SS and R15 the struct: the first step is the first instruction. */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#define PAYLOAD_MAGIC 0x4c503258 /* X2PL */
#define PAYLOAD_SLOTS 384        /* steps, those of handlers included */
#define PAYLOAD_HANDLERS 64
#define PAYLOAD_CODE 0x8000      /* bytes that `code` needs at most */
#define PAYLOAD_IDT 0x1000       /* bytes that `idt` needs */

/* How the guest ends. */
#define PAYLOAD_VMCALL 0
#define PAYLOAD_HLT 1   /* CLI, HLT */
#define PAYLOAD_PORT 2  /* OUT of AL to port E9H */
#define PAYLOAD_STOPS 4 /* beside one of them: and once when it is ready */

#define PAYLOAD_READY 1
#define PAYLOAD_DONE 2 /* behind the last step; not noted with PAYLOAD_VMCALL, where RIP is code + main_end */
#define PAYLOAD_REFUSED 3 /* `refused` is the operation that it does not know, or -1: no room */
#define PAYLOAD_LOST 4 /* an exception outside every step; the last event has it */

/* Offsets for entry.S. */
#define PAYLOAD_STATE 4
#define PAYLOAD_EVENTS 24
#define PAYLOAD_EVENTS_ROOM 32
#define PAYLOAD_EVENTS_USED 36
#define PAYLOAD_DELIVERIES 40

#ifndef __ASSEMBLER__
#include "../../../probe/wire.h"

struct payload {
  u32 magic;
  u32 state; /* out */
  u32 end;
  int refused; /* out */
  u64 code;
  u64 events;
  u32 events_room;
  u32 events_used; /* out: bytes; more than the room means that some were lost */
  u32 deliveries; /* out */
  u32 steps; /* of the main stream; the slots behind them are the handlers' */
  u32 ops; /* operations of the main stream, from `op` on */
  u32 handlers; /* struct wire_handler with their operations, behind those */
  u64 idt;
  u64 descriptor[MAX_CPUS]; /* of posted interrupts, by virtual processor, for OP_PID_BIT */
  u64 barriers; /* 256 words of 32 bits that all processors share, 0 at first */
  u32 apic_id[MAX_CPUS]; /* for OP_SEND_IPI */
  u64 entry, rax, rcx, rdx; /* out */
  u32 start[PAYLOAD_SLOTS]; /* out: where each step's instruction begins and ends, from `code` on; */
  u32 behind[PAYLOAD_SLOTS]; /* 0 and 0 of a step that the VMM makes */
  u32 handler[PAYLOAD_HANDLERS]; /* out: where each handler begins */
  u32 main_end, code_end; /* out */
  struct wire_op op[];
};

_Static_assert(__builtin_offsetof(struct payload, state) == PAYLOAD_STATE, "entry.S");
_Static_assert(__builtin_offsetof(struct payload, events) == PAYLOAD_EVENTS, "entry.S");
_Static_assert(__builtin_offsetof(struct payload, events_room) == PAYLOAD_EVENTS_ROOM, "entry.S");
_Static_assert(__builtin_offsetof(struct payload, events_used) == PAYLOAD_EVENTS_USED, "entry.S");
_Static_assert(__builtin_offsetof(struct payload, deliveries) == PAYLOAD_DELIVERIES, "entry.S");
#endif

#endif
