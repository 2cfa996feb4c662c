/* Steps that take their time: waits for an interrupt, for other processors, for INIT to arrive. */
#include "instruction.h"

#define SPIN_ROUNDS 2048
#define SPIN_CLOCKS 256

static bool begin_wait(struct cpu *c) {
  struct frame *f = top(c);
  if (f->inside) return false;
  f->inside = true;
  f->rounds = 0;
  f->deliveries = c->deliveries;
  c->blocking &= (u8) ~(BLOCKING_STI | BLOCKING_MOV_SS);
  return true;
}

bool spin(struct cpu *c, const struct instruction *i) {
  struct frame *f = top(c);
  begin_wait(c);
  c->machine->clock += SPIN_CLOCKS;
  if (c->deliveries != f->deliveries || ++f->rounds == SPIN_ROUNDS) completed(c, i);
  return true;
}

bool barrier(struct cpu *c, const struct instruction *i) {
  u32 *arrived = &c->machine->arrived[i->step->arg];
  bool begins = begin_wait(c);
  *arrived |= 1u << c->index;
  if ((u64)__builtin_popcount(*arrived) < i->step->value) return begins;
  completed(c, i);
  return true;
}

/* Waits until the other one halts: INIT could come at any time before. */
bool init_sipi(struct cpu *c, const struct instruction *i) {
  struct cpu *other = &c->machine->cpu[i->step->arg];
  bool begins = begin_wait(c);
  if (other->state != FINISHED && !other->halted_here) return begins;
  if (other->state != FINISHED) {
    lapic_init(&other->apic);
    other->interrupt_flag = false;
    wake(other);
  }
  completed(c, i);
  return true;
}
