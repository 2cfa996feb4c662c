#include "vmm.h"
#include "apic.h"
#include "fields.h"
#include "guest.h"
#include "machine.h"
#include "page.h"
#include "vmcs.h"
#include "vmx.h"

#define MAX_EXITS 1000
#define LEAF_TOPOLOGY 0xb

int vm_enter(struct cpu *c, int resume);
extern u8 _start[], guest_touch[], __guest_end[];

/* A hypervisor below learns of a page when a guest of this VMM touches it, by an exit. Where that comes while
 * the processor delivers a virtual interrupt, much can go wrong: so all that a delivery touches comes first. */
static void touch_pages(struct cpu *c) {
  field_set(c, FIELD_GUEST_RIP, (u64)guest_touch);
  field_set(c, FIELD_GUEST_RFLAGS, 2);
  c->rdi = (u64)_start;
  c->rsi = (u64)__guest_end;
  fields_write(c);
  c->launched = !vm_enter(c, 0) && !(vmread(FIELD_EXIT_REASON) & REASON_ENTRY_FAILURE);
  vmcs_prepare(c);
}

int vmm_prepare(struct cpu *c, const struct wire_case *record, const struct wire_vcpu *b) {
  const struct wire_item *items = (const struct wire_item *)(b + 1);
  const struct wire_word *words = (const struct wire_word *)(items + b->items);
  const struct wire_vcpu *before = c->block;
  c->record = record;
  c->block = b;
  c->ops = (const struct wire_op *)((const struct wire_range *)(words + b->words) + b->ranges);
  c->log = c->log_base;
  c->log_end = c->log_base + LOG_ROOM;
  c->log_value = log_value;
  c->deliveries = 0;
  memset(c->taken, 0, sizeof(c->taken));
  c->shared_pages = 0;
  if (!guest_emit(c)) return 0;
  pages_set(c, before, b);
  if (record->level != LEVEL_VMX) return 1;
  vmcs_prepare(c);
  if (under_hypervisor && !c->launched) touch_pages(c);
  for (u32 i = 0; i < b->items; i++) vmcs_write_item(c, items[i].what, items[i].how, items[i].value);
  vmcs_arm_guard(c);
  return 1;
}

/* For each RDMSR of the main stream, what it gives in root operation; at level guest the APIC ID that
 * CPUID gives. */
static void note_physical_values(struct cpu *c) {
  for (u32 i = 0; i < c->block->ops; i++) {
    struct wire_event *event;
    u64 value, fault = 0;
    if (c->ops[i].op != OP_RDMSR) continue;
    if (c->record->level == LEVEL_VMX)
      fault = try_rdmsr(c->ops[i].arg, &value);
    else
      value = cpuid(LEAF_TOPOLOGY).edx;
    event = log_event(c, EVENT_PHYSICAL, c->ops[i].slot, sizeof(*event));
    event->a = value;
    event->b = fault;
  }
}

static void set_guest_interrupt_flag(const struct cpu *c, u64 value) {
  u64 flags = field_get(c, FIELD_GUEST_RFLAGS) & ~(u64)RFLAGS_IF;
  field_set(c, FIELD_GUEST_RFLAGS, flags | (value ? RFLAGS_IF : 0));
}

static void perform(struct cpu *c, const struct wire_op *op) {
  switch (op->op) {
    case OP_ITEM:
      vmcs_write_item(c, op->arg, op->flags, op->value);
      vmcs_arm_guard(c);
      break;
    case OP_WORD: ((u32 *)c->page)[op->arg % PAGE / 4] = (u32)op->value; break;
    case OP_BITMAP_CLEAR:
      bitmap_clear(c);
      c->bitmap_rewritten = 1;
      break;
    case OP_BITMAP_SET: bitmap_set(c, (u32)op->value, (u32)(op->value >> 32), op->arg, 1); break;
    case OP_RAISE: apic_raise((u8)op->arg); break;
    case OP_SEND_IPI_VMM:
      for (int i = 0; guest_yields && i < GUEST_TURNS; i++) out8(PORT_YIELD, 0);
      apic_send(cpus[op->arg % MAX_CPUS].apic_id, (u8)op->value);
      break;
    case OP_INTERRUPT_FLAG: set_guest_interrupt_flag(c, op->value); break;
    case OP_PID_BIT_VMM: {
      u8 *word = cpus[op->arg % MAX_CPUS].descriptor + (u32)op->value / 32 % 16 * 4;
      asm volatile("lock orl %1, %0" : "+m"(*(u32 *)word) : "r"(1u << (u32)op->value % 32));
      break;
    }
    case OP_DONE: log_event(c, EVENT_PERFORMED, op->slot, sizeof(struct wire_event)); break;
  }
}

/* Performs the VMM operations that stand before operation `next`; returns what then is next. */
static u32 perform_from(struct cpu *c, u32 next) {
  while (next < c->block->ops && is_vmm(&c->ops[next])) perform(c, &c->ops[next++]);
  return next;
}

static u32 first_op_from_slot(const struct cpu *c, u32 slot) {
  u32 i = 0;
  while (i < c->block->ops && c->ops[i].slot < slot) i++;
  return i;
}

/* The instruction itself exits. */
static int is_fault_like(u32 reason) {
  return reason == REASON_CPUID || reason == REASON_HLT || reason == REASON_VMCALL ||
         reason == REASON_CONTROL_REGISTER_ACCESS || reason == REASON_RDMSR || reason == REASON_WRMSR;
}

/* The operation behind the one that an exit belongs to: at a boundary the saved RIP points to it, a
 * fault-like exit of an instruction points to the instruction itself. */
static u32 op_after_exit(const struct cpu *c, u32 reason, struct position p) {
  u32 i = first_op_from_slot(c, p.slot);
  if (is_fault_like(reason) || p.at & AT_INSIDE) return first_op_from_slot(c, p.slot + 1u);
  while (i > 0 && is_vmm(&c->ops[i - 1])) i--; /* VMM steps stand between the two guest steps */
  return i;
}

static void log_exit(struct cpu *c, u32 reason, struct position p) {
  struct wire_exit *e = log_event(c, EVENT_EXIT, p.slot, sizeof(*e));
  u64 activity = vmread(FIELD_GUEST_ACTIVITY_STATE);
  e->at = p.at;
  e->reason = reason;
  e->qualification = vmread(FIELD_EXIT_QUALIFICATION);
  e->interruption = (u32)vmread(FIELD_VM_EXIT_INTERRUPTION_INFORMATION);
  e->vectoring = (u32)vmread(FIELD_IDT_VECTORING_INFORMATION);
  e->length = (u32)vmread(FIELD_VM_EXIT_INSTRUCTION_LENGTH);
  e->error_code = (u32)vmread(FIELD_VM_EXIT_INTERRUPTION_ERROR_CODE);
  e->blocking = (u16)vmread(FIELD_GUEST_INTERRUPTIBILITY_STATE);
  e->activity = (u16)activity;
  field_was_read(c, FIELD_GUEST_ACTIVITY_STATE, activity);
  if (is_fault_like(reason)) field_was_read(c, FIELD_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
  e->reserved = 0;
  e->rax = c->rax;
  e->rcx = c->rcx;
  e->rdx = c->rdx;
}

static void take_external_interrupt(struct cpu *c) {
  if (field_get(c, FIELD_VM_EXIT_CONTROLS) & EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT) {
    u32 vector = (u32)vmread(FIELD_VM_EXIT_INTERRUPTION_INFORMATION) & 0xff;
    c->taken[vector / 32] |= 1u << vector % 32;
    apic_eoi();
  } else {
    apic_drain();
  }
}

/* Follows from the reason alone; 0 where the case ends. */
static int react(struct cpu *c, u32 reason) {
  u64 rip = vmread(FIELD_GUEST_RIP), primary;
  switch (reason) {
    case REASON_CPUID:
    case REASON_HLT:
    case REASON_VMCALL:
    case REASON_CONTROL_REGISTER_ACCESS:
    case REASON_RDMSR:
    case REASON_WRMSR:
      field_set(c, FIELD_GUEST_RIP, rip + vmread(FIELD_VM_EXIT_INSTRUCTION_LENGTH));
      field_set(c, FIELD_GUEST_INTERRUPTIBILITY_STATE, vmread(FIELD_GUEST_INTERRUPTIBILITY_STATE) & ~3ul);
      return 1;
    case REASON_VIRTUALIZED_EOI:
    case REASON_APIC_WRITE: return 1;
    case REASON_TPR_BELOW_THRESHOLD: field_set(c, FIELD_TPR_THRESHOLD, 0); return 1;
    case REASON_INTERRUPT_WINDOW:
      primary = field_get(c, FIELD_PRIMARY_PROCESSOR_BASED_CONTROLS);
      field_set(c, FIELD_PRIMARY_PROCESSOR_BASED_CONTROLS, primary & ~(u64)PRIMARY_INTERRUPT_WINDOW_EXITING);
      return 1;
    case REASON_EXTERNAL_INTERRUPT: take_external_interrupt(c); return 1;
  }
  return 0;
}

static void log_entry(struct cpu *c, u64 how) {
  struct wire_event *event = log_event(c, EVENT_ENTRY, 0, sizeof(*event));
  event->a = how;
  event->b = how == 2 ? vmread(FIELD_VM_INSTRUCTION_ERROR) : 0;
}

/* The slot behind the main stream's last step is also that of the first handler's first. */
static int in_handler(const struct cpu *c, struct position p) {
  return p.slot > c->layout.steps || (p.slot == c->layout.steps && !(p.at & AT_END));
}

static void enter_and_exit(struct cpu *c) {
  u32 next = perform_from(c, 0);
  c->r12 = SELECTOR_DATA;
  c->r15 = (u64)c;
  for (int exits = 0; exits < MAX_EXITS; exits++) {
    u32 reason, after;
    struct position p;
    int failed;
    fields_write(c);
    failed = vm_enter(c, c->launched);
    if (failed) {
      log_entry(c, (u64)failed);
      return;
    }
    reason = (u32)vmread(FIELD_EXIT_REASON);
    if (!(reason & REASON_ENTRY_FAILURE)) c->launched = 1;
    p = guest_locate(c, vmread(FIELD_GUEST_RIP), c->r14);
    if (reason == REASON_VMCALL && p.at & AT_END && p.slot == c->layout.steps) {
      /* SDM, Saving Non-Register State; no observation, but what the next case need not write. */
      field_was_read(c, FIELD_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
      guest_log_end(c);
      return;
    }
    log_exit(c, reason, p);
    if (p.at & (AT_OTHER | AT_HANDLER) || in_handler(c, p)) {
      if (!react(c, reason)) return;
      continue;
    }
    after = op_after_exit(c, reason, p);
    if (after < next) after = next; /* VMM steps before it have been performed */
    if (after >= c->block->ops || !react(c, reason)) return;
    next = perform_from(c, after);
  }
}

void vmm_run(struct cpu *c) {
  u64 activity;
  c->status = c->activity = c->blocking = 0;
  note_physical_values(c);
  if (c->record->level != LEVEL_VMX) {
    guest_run_in_root(c);
    return;
  }
  enter_and_exit(c);
  if (vmcs_has(FIELD_GUEST_INTERRUPT_STATUS)) c->status = (u32)vmread(FIELD_GUEST_INTERRUPT_STATUS);
  activity = vmread(FIELD_GUEST_ACTIVITY_STATE);
  field_was_read(c, FIELD_GUEST_ACTIVITY_STATE, activity);
  c->activity = (u16)activity;
  c->blocking = (u16)vmread(FIELD_GUEST_INTERRUPTIBILITY_STATE);
}
