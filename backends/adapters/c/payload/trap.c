/* The payload notes faults and interrupts, and runs the steps of handlers. */
#include "guest.h"

struct trap_frame {
  u64 r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
  u64 vector, error, rip, cs, rflags, rsp, ss;
};

void trap(struct trap_frame *f, struct payload *p);

struct position {
  u16 slot;
  u8 at;
};

static struct position in_stream(const struct payload *p, u32 rip, u32 first, u32 end) {
  u32 behind = 0;
  for (u32 s = first; s < end && s < PAYLOAD_SLOTS; s++) {
    if (!p->behind[s]) continue;
    if (rip < p->start[s])
      return (struct position){(u16)s, rip == behind && behind ? AT_PREVIOUS : AT_BETWEEN};
    if (rip == p->start[s])
      return (struct position){(u16)s, (u8)(AT_START | (rip == behind && behind ? AT_PREVIOUS : 0))};
    if (rip < p->behind[s]) return (struct position){(u16)s, AT_INSIDE};
    behind = p->behind[s];
  }
  return (struct position){(u16)end, AT_END};
}

/* Where an address is, in the words of wire.h. */
static struct position locate(const struct payload *p, const struct trap_frame *f) {
  u64 rip = f->rip - p->code;
  if (f->rip >= (u64)log_value && f->rip < (u64)log_value_end)
    return (struct position){(u16)(f->r14 + 1), AT_BETWEEN};
  if (rip <= p->main_end) return in_stream(p, (u32)rip, 0, p->steps);
  if (rip < p->code_end) return in_stream(p, (u32)rip, p->steps, PAYLOAD_SLOTS);
  return (struct position){0, AT_OTHER};
}

static void note(struct payload *p, u8 type, struct position where, u64 a) {
  u32 at = sizeof(struct wire_event);
  asm volatile("xaddl %0, %1" : "+r"(at), "+m"(p->events_used)::"memory");
  if (at + sizeof(struct wire_event) > p->events_room) return;
  *(struct wire_event *)(p->events + at) = (struct wire_event){type, where.at, where.slot, 0, a, 0};
}

static void run_handler(struct payload *p, u64 vector) {
  const struct wire_handler *h = first_handler(p);
  for (u32 i = 0; i < p->handlers; i++, h = next_handler(h)) { /* VECTOR_ANY stands last */
    if (h->vector != vector && h->vector != VECTOR_ANY) continue;
    call_handler(p->code + p->handler[i]);
    return;
  }
}

void trap(struct trap_frame *f, struct payload *p) {
  struct position where = locate(p, f);
  if (f->vector < 16 && f->vector != 1 && f->vector != 2) {
    note(p, EVENT_FAULT, where, f->vector | f->error << 32);
    if (where.at & AT_START && where.slot < PAYLOAD_SLOTS) {
      f->rip = p->code + p->behind[where.slot];
      return;
    }
    p->state = PAYLOAD_LOST;
    for (;;) finish(p);
  }
  note(p, EVENT_DELIVERY, where, f->vector);
  p->deliveries++;
  if (f->vector == 1) f->rflags &= ~0x100ul;
  if (f->vector >= 16) run_handler(p, f->vector);
  note(p, EVENT_RETURN, where, f->vector);
}
