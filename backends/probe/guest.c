#include "guest.h"
#include "frames.h"
#include "machine.h"
#include "processor.h"
#include "vmx.h"

static struct position in_stream(const struct cpu *c, u8 *rip, u32 first, u32 end) {
  const struct layout *l = &c->layout;
  u8 *behind = 0; /* the end of the slot before */
  for (u32 s = first; s < end; s++) {
    if (!l->start[s]) continue;
    if (rip < l->start[s]) return (struct position){(u16)s, rip == behind ? AT_PREVIOUS : AT_BETWEEN};
    if (rip == l->start[s])
      return (struct position){(u16)s, (u8)(AT_START | (rip == behind ? AT_PREVIOUS : 0))};
    if (rip < l->end[s]) return (struct position){(u16)s, AT_INSIDE};
    behind = l->end[s];
  }
  return (struct position){(u16)end, (u8)(AT_END | (rip == behind ? AT_PREVIOUS : 0))};
}

struct position guest_locate(const struct cpu *c, u64 address, u64 r14) {
  const struct layout *l = &c->layout;
  u8 *rip = (u8 *)address;
  if (rip >= l->base && rip <= l->main_end) {
    struct position p = in_stream(c, rip, 0, l->steps);
    if (rip == l->base) p.at = (u8)((p.at & ~AT_BETWEEN) | AT_START);
    return p;
  }
  if (rip > l->main_end && rip < c->code + CODE_ROOM) return in_stream(c, rip, l->steps, l->slots);
  if (rip >= guest_stubs && rip < guest_stubs + 256 * STUB_BYTES)
    return (struct position){(u16)((rip - guest_stubs) / STUB_BYTES), AT_HANDLER};
  if (rip >= (u8 *)log_value && rip < log_value_end) /* r14: the slot whose value is being noted */
    return (struct position){(u16)(r14 + 1), AT_BETWEEN};
  return (struct position){0, AT_OTHER};
}

/* Takes room by one XADD, as log_value does. Where there is none, the event goes nowhere. */
void *log_event(struct cpu *c, u8 type, u16 slot, u64 size) {
  static struct wire_exit nowhere[MAX_CPUS];
  u8 *place = (u8 *)size;
  asm volatile("xaddq %0, %1" : "+r"(place), "+m"(c->log)::"memory");
  if (place + size > c->log_end) place = (u8 *)&nowhere[c->index];
  *(u64 *)place = type | (u64)slot << 16;
  return place;
}

static void log_at(struct cpu *c, u8 type, struct position p, u64 a) {
  struct wire_event *event = log_event(c, type, p.slot, sizeof(*event));
  event->at = p.at;
  event->a = a;
  event->b = 0;
}

void guest_log_end(struct cpu *c) { log_at(c, EVENT_END, (struct position){c->layout.steps, AT_END}, 0); }

static void run_handler(struct cpu *c, u64 vector) {
  const struct wire_handler *h = (const struct wire_handler *)(c->ops + c->block->ops);
  for (u32 i = 0; i < c->block->handlers; i++) { /* VECTOR_ANY stands last */
    if (h->vector == vector || h->vector == VECTOR_ANY) {
      if (c->record->level == LEVEL_GUEST) announce(GUEST_BEGINS);
      call_emitted(c->handler[i], c);
      return;
    }
    h = (const struct wire_handler *)((const struct wire_op *)(h + 1) + h->ops);
  }
}

static void end_guest(const struct cpu *c) {
  if (c->record->level == LEVEL_GUEST) fail("an exception outside every step of the guest");
  asm volatile("vmcall");
}

void guest_trap(struct trap_frame *f);
void guest_trap(struct trap_frame *f) {
  struct cpu *c = this_cpu();
  struct position p = guest_locate(c, f->rip, f->r14);
  if (f->vector == 3) { /* the way back from CPL 3 */
    f->cs = SELECTOR_CODE;
    f->ss = SELECTOR_DATA;
    return;
  }
  if (f->vector < 16 && f->vector != 1 && f->vector != 2) {
    log_at(c, EVENT_FAULT, p, f->vector | f->error << 32);
    if (!(p.at & AT_START) || p.slot >= c->layout.slots) end_guest(c);
    f->rip = (u64)c->layout.end[p.slot];
    return;
  }
  log_at(c, EVENT_DELIVERY, p, f->vector);
  c->deliveries++;
  if (f->vector == 1) f->rflags &= ~(u64)RFLAGS_TF;
  if (f->vector >= 16) run_handler(c, f->vector);
  log_at(c, EVENT_RETURN, p, f->vector);
}

/* Where a processor goes on that has been started again: behind the step that waited for it. */
u8 *guest_restarted(struct cpu *c);
u8 *guest_restarted(struct cpu *c) {
  processor_load_tables(c);
  load_idt(guest_idt);
  for (u32 i = 0; i < c->block->ops; i++)
    if (c->ops[i].op == OP_WAIT_FOR_SIPI) return c->layout.end[c->ops[i].slot];
  fail("a processor has been started again that does not wait for it");
}

void guest_run_in_root(struct cpu *c) {
  u64 flags = c->block->guest & GUEST_IF, left;
  /* INIT is blocked in VMX root operation. */
  if (c->block->guest & GUEST_INIT && vmx_state == VMX_ROOT) asm volatile("vmxoff" ::: "cc");
  load_idt(guest_idt);
  announce(GUEST_BEGINS);
  if (flags) asm volatile("sti" ::: "memory");
  call_emitted(c->layout.base, c);
  /* No CLI where IF is 0: with it Bochs, below a hypervisor, may deliver what is still pending here. */
  asm volatile("pushfq\n\tpopq %0" : "=r"(left)::"memory");
  if (left & RFLAGS_IF) asm volatile("cli" ::: "memory");
  announce(GUEST_ENDS);
  load_idt(host_idt);
  guest_log_end(c);
}
