/* The machine: physical memory, and processors with a local APIC and VMX. */
#ifndef MACHINE_H
#define MACHINE_H

#include <stddef.h>
#include <string.h>

#include "../x2apic_adapter.h"
#include "vmx.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define LAPIC_VERSION 0x01060015u /* version 15H, seven LVT entries, directed EOI */
#define MEMORY_BASE 0x100000u /* 1 MByte of memory from here on; elsewhere is nothing */
#define MEMORY_SIZE 0x100000u

struct machine;

/* lapic.c */
struct lapic {
  struct machine *machine;
  u32 id;
  u64 base; /* IA32_APIC_BASE */
  u8 tpr;
  u32 svr, esr, errors, dcr, initial_count;
  u32 lvt[7]; /* CMCI, timer, thermal, performance, LINT0, LINT1, error */
  u64 icr;
  u32 isr[8], tmr[8], irr[8];
  bool armed;
  u64 expires, deadline;
};

int highest_vector(const u32 set[8]);
void lapic_reset(struct lapic *l, u64 base);
void lapic_init(struct lapic *l);
enum x2a_apic_mode lapic_mode(const struct lapic *l);
u8 lapic_ppr(const struct lapic *l);
int lapic_deliverable(const struct lapic *l);
int lapic_acknowledge(struct lapic *l);
void lapic_eoi(struct lapic *l);
void lapic_accept(struct lapic *l, u8 vector);
bool lapic_read(const struct lapic *l, u32 msr, u64 *value);
bool lapic_write(struct lapic *l, u32 msr, u64 value);
u64 lapic_register(const struct lapic *l, u32 msr);
u32 lapic_load(const struct lapic *l, u32 offset);
bool lapic_set_base(struct lapic *l, u64 value);
void lapic_tick(struct lapic *l);
bool lapic_will_interrupt(const struct lapic *l);
void lapic_set_deadline(struct lapic *l, u64 value);
void lapic_send(struct machine *m, u32 id, u8 vector);

/* A stream of the guest's: the program's own steps, or those of a handler that runs. */
struct frame {
  u16 first, count, next; /* steps; of the main stream places in cpu.own */
  u16 last;               /* the step that is behind or being executed: what happens now is its */
  u16 results;            /* of a handler: its first result */
  u8 vector, cpl;         /* to return to */
  bool inside;            /* within the step that comes next: a wait */
  bool interrupt_flag, trap_flag;
  u32 rounds, deliveries; /* of a wait */
};
#define DEPTH 64

enum cpu_state { IN_ROOT, RUNNING, FINISHED };

struct cpu {
  struct machine *machine;
  const struct x2a_setup *setup;
  u8 index, state;
  bool entered, halted_here; /* halted_here: by the step frame.last, which completes when it ends */
  bool behind_posting;       /* the instruction at hand is not the first of its step */
  struct lapic apic;
  u64 vmcs[FIELD_COUNT];
  u64 sysenter[3], host_sysenter[3];

  /* In VMX non-root operation: the controls as of VM entry, and what the VMCS keeps outside of it. */
  bool non_root, threshold_due, recognized;
  u32 pin, primary, secondary, exit_controls;
  u64 tertiary;
  u8 rvi, svi;

  bool interrupt_flag, trap_flag;
  u8 cpl, blocking, activity;
  bool fresh_blocking; /* set by the instruction that just ends */
  u64 pending_debug;

  u16 own[X2A_STEPS], steps; /* its steps, by their index in the program */
  struct frame frame[DEPTH];
  u8 depth;
  u32 deliveries, exits;
  bool reports_reset;
  struct x2a_register before[64]; /* registers of the physical APIC before the first VM entry */
};

struct machine {
  const struct x2a_program *program;
  struct x2a_observation *seen;
  const char *trouble; /* why nothing is known of the case */
  u64 clock;
  u8 cpus;
  u32 arrived[X2A_BARRIERS]; /* at each barrier, a bit a processor */
  struct cpu cpu[X2A_VCPUS];
};

/* memory.c */
void memory_clear(void);
u8 *memory(u64 address, unsigned length);
u32 load32(u64 address);
u64 load64(u64 address);
void store32(u64 address, u32 value);
void store64(u64 address, u64 value);
void memory_put(u64 address, const void *bytes, unsigned length);

/* virtual_apic.c; what a virtualized write leads to beside what it stores */
struct trap {
  bool fault, exit;
  enum reason reason;
  u64 qualification;
};
bool has_delivery(const struct cpu *c);
void ppr_virtualization(struct cpu *c);
void evaluate(struct cpu *c);
struct trap tpr_virtualization(struct cpu *c);
struct trap virtualized_write(struct cpu *c, u32 msr, u64 value);
bool is_virtualized_write(const struct cpu *c, u32 msr);
u8 take_virtual_interrupt(struct cpu *c);
void process_posted_interrupts(struct cpu *c);

/* vm_entry.c */
struct x2a_outcome vm_entry(struct cpu *c);

/* vm_exit.c: which instruction an exit belongs to, and the exit itself */
enum place { AT_INSTRUCTION, BEHIND_INSTRUCTION, BETWEEN_INSTRUCTIONS, BEHIND_DEBUG_TRAP, AT_END };
struct vm_exit {
  enum reason reason;
  enum place place;
  u64 qualification;
  u32 length, information;
};
void vm_exit(struct cpu *c, struct vm_exit e);
void save_guest(struct cpu *c);

/* events.c */
enum boundary { GO, WAITS, LEFT };
enum boundary before_instruction(struct cpu *c);
void deliver(struct cpu *c, u8 vector);
void iret(struct cpu *c);
void unblock_nmis(struct cpu *c);

/* instructions.c, msrs.c */
bool execute(struct cpu *c);
bool read_msr(const struct cpu *c, u32 msr, u64 *value);
bool write_msr(struct cpu *c, u32 msr, u64 value);
bool vmx_capability(u32 msr, u64 *value);
bool set_descriptor_bits(struct machine *m, const struct x2a_step *s);

/* guest.c: where the guest is */
struct frame *top(struct cpu *c);
const struct x2a_step *step_at(const struct cpu *c, unsigned place);
unsigned next_place(const struct cpu *c);
unsigned owner(const struct cpu *c);
unsigned rip_step(const struct cpu *c);
enum x2a_rip rip_between(const struct cpu *c);
void wake(struct cpu *c);

/* vmm.c */
void perform_vmm_steps(struct cpu *c, unsigned place);
void after_exit(struct cpu *c, enum reason reason);
void write_field(struct cpu *c, u32 encoding, u64 value);

/* run.c */
const char *run_program(const struct x2a_program *p, struct x2a_observation *o);

#endif
