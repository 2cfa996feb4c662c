/* Events between two instructions. SDM: "Priority Among Concurrent Events", "Other Causes of VM Exits",
 * "Virtual-Interrupt Delivery". */
#include "machine.h"

static const struct x2a_handler *handler_of(const struct x2a_setup *s, u8 vector) {
  static const struct x2a_handler nothing;
  if (vector < 16) return &nothing; /* an exception or an NMI */
  for (unsigned i = 0; i < s->handlers; i++)
    if (s->handler[i].vector == vector) return &s->handler[i];
  return &s->other;
}

/* Through the IDT, by an interrupt gate, to CPL 0. The handler of #DB returns with TF = 0. */
void deliver(struct cpu *c, u8 vector) {
  const struct x2a_handler *h = handler_of(c->setup, vector);
  struct frame f = {.first = h->first,
                    .count = h->count,
                    .vector = vector,
                    .cpl = c->cpl,
                    .interrupt_flag = c->interrupt_flag,
                    .trap_flag = vector != 1 && c->trap_flag};
  if (c->depth + 1 == DEPTH) {
    c->machine->trouble = "more handlers within handlers than this model has room for";
    return;
  }
  f.results = (u16)x2a_delivered(c->machine->seen, owner(c), vector, rip_step(c), h->count);
  wake(c);
  c->deliveries++;
  c->frame[++c->depth] = f;
  c->interrupt_flag = c->trap_flag = false;
  c->cpl = 0;
  c->blocking &= (u8) ~(BLOCKING_STI | BLOCKING_MOV_SS);
}

/* SDM: "Changes to Instruction Behavior in VMX Non-Root Operation", IRET. */
void unblock_nmis(struct cpu *c) {
  if (!(c->non_root && c->pin & PIN_NMI_EXITING)) c->blocking &= (u8)~BLOCKING_NMI;
}

void iret(struct cpu *c) {
  struct frame f = c->frame[c->depth--];
  c->interrupt_flag = f.interrupt_flag;
  c->trap_flag = f.trap_flag;
  c->cpl = f.cpl;
  c->blocking &= (u8) ~(BLOCKING_STI | BLOCKING_MOV_SS);
  unblock_nmis(c);
}

static enum boundary leave(struct cpu *c, enum reason reason, u32 information) {
  vm_exit(c, (struct vm_exit){.reason = reason, .place = BETWEEN_INSTRUCTIONS, .information = information});
  return LEFT;
}

static bool is_interruptible(const struct cpu *c) {
  return c->interrupt_flag && !(c->blocking & (BLOCKING_STI | BLOCKING_MOV_SS));
}

/* A single-step trap. It waits while MOV SS blocks. */
static enum boundary debug_trap(struct cpu *c) {
  u64 bits = c->pending_debug;
  c->pending_debug = 0;
  if (!c->non_root || !(c->vmcs[EXCEPTION_BITMAP] & 1u << 1)) {
    deliver(c, 1);
    return GO;
  }
  vm_exit(c, (struct vm_exit){.reason = REASON_EXCEPTION,
                              .place = BEHIND_DEBUG_TRAP,
                              .qualification = bits & PENDING_BS,
                              .information = EVENT_VALID | HARDWARE_EXCEPTION << 8 | 1});
  return LEFT;
}

/* A physical interrupt that is due. */
static enum boundary external_interrupt(struct cpu *c) {
  int vector;
  if (!c->non_root || !(c->pin & PIN_EXTERNAL_INTERRUPT_EXITING)) {
    deliver(c, (u8)lapic_acknowledge(&c->apic));
    return GO;
  }
  if (!(c->exit_controls & EXIT_ACKNOWLEDGE)) return leave(c, REASON_EXTERNAL_INTERRUPT, 0);
  vector = lapic_acknowledge(&c->apic);
  if (c->pin & PIN_POSTED_INTERRUPTS && (u64)vector == c->vmcs[NOTIFICATION_VECTOR]) {
    process_posted_interrupts(c);
    return GO;
  }
  return leave(c, REASON_EXTERNAL_INTERRUPT, EVENT_VALID | (u32)vector);
}

/* With external-interrupt exiting IF does not count. Blocking by STI or MOV SS may delay it; here it does. */
static bool external_interrupt_due(const struct cpu *c) {
  bool exits = c->non_root && c->pin & PIN_EXTERNAL_INTERRUPT_EXITING;
  if (lapic_deliverable(&c->apic) < 0) return false;
  return exits ? !(c->blocking & (BLOCKING_STI | BLOCKING_MOV_SS)) : is_interruptible(c);
}

/* Everything that comes before the next instruction: LEFT after a VM exit, WAITS where none comes. */
enum boundary before_instruction(struct cpu *c) {
  enum boundary left = GO;
  while (left == GO && !c->machine->trouble) {
    if (c->threshold_due && c->activity < SHUTDOWN) {
      c->threshold_due = false;
      return leave(c, REASON_TPR_BELOW_THRESHOLD, 0);
    }
    if (c->activity > HALTED) return WAITS;
    if (c->pending_debug & PENDING_BS && !(c->blocking & BLOCKING_MOV_SS))
      left = debug_trap(c);
    else if (c->non_root && c->primary & PRIMARY_INTERRUPT_WINDOW_EXITING && is_interruptible(c))
      left = leave(c, REASON_INTERRUPT_WINDOW, 0);
    else if (c->non_root && c->recognized && is_interruptible(c))
      deliver(c, take_virtual_interrupt(c));
    else if (external_interrupt_due(c))
      left = external_interrupt(c);
    else
      return c->activity == HALTED ? WAITS : GO;
  }
  return LEFT;
}
