#include "payload_steps.h"

#include <string.h>

/* ---- Steps become operations ---- */

struct writer {
  struct payload *p;
  u8 *at, *end;
  const struct x2a_program *program;
  const char *cannot;
};

static void *take(struct writer *w, size_t size) {
  void *place = w->at;
  if (w->at + size > w->end) {
    w->cannot = "more steps than the payload has room for";
    return NULL;
  }
  w->at += size;
  return place;
}

static void put(struct writer *w, u32 slot, u8 code, u8 flags, u32 arg, u64 value) {
  struct wire_op *op = take(w, sizeof *op);
  if (op) *op = (struct wire_op){.op = code, .flags = flags, .slot = (u16)slot, .arg = arg, .value = value};
}

static void put_post(struct writer *w, u32 slot, const struct x2a_step *s) {
  for (u32 bit = 0; bit < 256; bit++)
    if (s->bits[bit / 64] >> bit % 64 & 1) put(w, slot, OP_PID_BIT, 0, s->arg, bit);
  if (s->outstanding) put(w, slot, OP_PID_BIT, 0, s->arg, 256);
  if (~s->value) put(w, slot, OP_SEND_IPI, 0, s->arg, s->value);
}

static void put_step(struct writer *w, u32 slot, const struct x2a_step *s) {
  static const u8 codes[] = {
      [X2A_RDMSR] = OP_RDMSR,
      [X2A_WRMSR] = OP_WRMSR,
      [X2A_READ_CR8] = OP_READ_CR8,
      [X2A_WRITE_CR8] = OP_WRITE_CR8,
      [X2A_STI] = OP_STI,
      [X2A_CLI] = OP_CLI,
      [X2A_NOP] = OP_NOP,
      [X2A_MOV_SS] = OP_MOV_SS,
      [X2A_HLT] = OP_HLT,
      [X2A_SPIN] = OP_SPIN,
      [X2A_VMCALL] = OP_VMCALL,
      [X2A_CPUID] = OP_CPUID,
      [X2A_MMIO_READ] = OP_MMIO_READ,
      [X2A_BARRIER] = OP_BARRIER,
  };
  u8 flags = s->garbage ? OP_GARBAGE : 0;
  if (slot >= PAYLOAD_SLOTS) w->cannot = "more steps than the payload has room for";
  if (s->cpl) w->cannot = "steps at CPL 3: the payload runs at CPL 0";
  if (s->action == X2A_POST)
    put_post(w, slot, s);
  else if (s->action == X2A_SET_APIC_BASE && ~s->mask)
    put(w, slot, OP_APIC_MODE, 0, 0, s->value);
  else if (s->action == X2A_SET_APIC_BASE)
    put(w, slot, OP_WRMSR, 0, 0x1b, s->value);
  else if (s->action <= X2A_BARRIER)
    put(w, slot, codes[s->action], flags, s->arg, s->value);
  else if (!x2a_is_vmm(s))
    w->cannot = "INIT, or the registers at reset: the payload has no step for them";
}

static void put_handler(struct writer *w, u32 *slot, u16 vector, const struct x2a_handler *from) {
  struct wire_handler *h = take(w, sizeof *h);
  const u8 *first = w->at;
  for (unsigned i = 0; h && i < from->count; i++) put_step(w, (*slot)++, &w->program->step[from->first + i]);
  if (!h) return;
  *h =
      (struct wire_handler){.vector = vector, .ops = (u16)((size_t)(w->at - first) / sizeof(struct wire_op))};
  w->p->handlers++;
}

const char *payload_write(struct payload *p, size_t room, const struct x2a_program *program, unsigned vcpu) {
  const struct x2a_setup *setup = &program->vcpu[vcpu];
  struct writer w = {p, (u8 *)p->op, (u8 *)p + room, program, NULL};
  u32 slot = 0;
  memset(p, 0, sizeof *p);
  p->magic = PAYLOAD_MAGIC;
  for (unsigned i = 0; i < program->steps; i++)
    if (program->step[i].vcpu == vcpu) put_step(&w, slot++, &program->step[i]);
  p->steps = slot;
  p->ops = (u32)((size_t)(w.at - (u8 *)p->op) / sizeof(struct wire_op));
  if (setup->handlers >= PAYLOAD_HANDLERS) return "more handlers than the payload has room for";
  for (unsigned i = 0; i < setup->handlers; i++)
    put_handler(&w, &slot, setup->handler[i].vector, &setup->handler[i]);
  if (setup->other.count) put_handler(&w, &slot, VECTOR_ANY, &setup->other);
  return w.cannot;
}

/* ---- Events become results ---- */

/* The main stream, or a handler that runs: its slots, and where their results are. */
struct stream {
  u32 first_slot, slots, passed;
  unsigned results; /* of a handler */
};

#define DEPTH 64

struct reader {
  const struct x2a_program *program;
  struct x2a_observation *o;
  struct stream stream[DEPTH];
  unsigned depth;
  u16 own[X2A_STEPS]; /* the main stream's steps, by index in the program */
};

static unsigned result_of(const struct reader *r, const struct stream *s, u32 place) {
  return s == r->stream ? r->own[place] : s->results + place;
}

static void add(struct reader *r, u32 slot, struct x2a_outcome outcome) {
  struct stream *s = &r->stream[r->depth];
  u32 place = slot - s->first_slot;
  if (place >= s->slots) return;
  x2a_add_outcome(r->o, result_of(r, s, place), outcome);
  if (s->passed <= place) s->passed = place + 1;
}

static bool is_over(const struct reader *r, u32 slot) {
  const struct stream *s = &r->stream[r->depth];
  u32 place = slot - s->first_slot;
  return place < s->slots && r->o->result[result_of(r, s, place)].outcome != X2A_NONE;
}

static void complete_passed(struct reader *r, const struct stream *s) {
  for (u32 place = 0; place < s->passed; place++) {
    unsigned result = result_of(r, s, place);
    if (r->o->result[result].outcome == X2A_NONE) x2a_completed(r->o, result);
  }
}

/* The handler that a vector has, and its first slot. */
static const struct x2a_handler *handler_of(const struct x2a_setup *setup, u8 vector, u32 *slot) {
  for (unsigned i = 0; i < setup->handlers; i++) {
    if (setup->handler[i].vector == vector && vector >= 16) return &setup->handler[i];
    *slot += setup->handler[i].count;
  }
  return &setup->other;
}

/* An interrupt at the boundary before a slot, or within it, happens in the time of the step before, or of that one. */
static void deliver(struct reader *r, const struct x2a_setup *setup, u8 vector, u8 at, u32 slot) {
  struct stream *s = &r->stream[r->depth];
  u32 place = slot - s->first_slot, time = at & AT_INSIDE || place == 0 ? place : place - 1;
  u32 first = r->stream[0].slots;
  const struct x2a_handler *h = handler_of(setup, vector, &first);
  unsigned count = vector < 16 ? 0 : h->count, next = place;
  if (time >= s->slots) time = s->slots ? s->slots - 1 : 0;
  if (s == r->stream) next = place < s->slots ? r->own[place] : r->program->steps;
  if (!(at & AT_INSIDE) && s->passed < place) s->passed = place < s->slots ? place : s->slots;
  if (!s->slots || r->depth + 1 == DEPTH) {
    r->o->full = true;
    return;
  }
  r->stream[++r->depth] =
      (struct stream){first, count, 0, x2a_delivered(r->o, result_of(r, s, time), vector, next, count)};
}

static void end_handler(struct reader *r) {
  struct stream *s = &r->stream[r->depth];
  if (!r->depth) return;
  s->passed = s->slots;
  complete_passed(r, s);
  r->depth--;
}

static struct x2a_outcome value_of(const struct x2a_step *step, u64 rax, u64 rdx) {
  u64 upper = step->action == X2A_READ_CR8 ? 0 : (rax | rdx) & 0xffffffff00000000;
  u64 both = (rax & 0xffffffff) | rdx << 32;
  return (struct x2a_outcome){
      .kind = X2A_VALUE, .value = step->action == X2A_READ_CR8 ? rax : both, .upper_set = upper != 0};
}

static const struct x2a_step *step_of(const struct reader *r, const struct x2a_setup *setup, u32 slot) {
  u32 first = r->stream[0].slots;
  if (slot < first) return &r->program->step[r->own[slot]];
  for (unsigned i = 0; i <= setup->handlers; i++) {
    const struct x2a_handler *h = i < setup->handlers ? &setup->handler[i] : &setup->other;
    if (slot < first + h->count) return &r->program->step[h->first + slot - first];
    first += h->count;
  }
  return NULL;
}

static const char *read_event(struct reader *r, const struct x2a_setup *setup, const struct wire_event *e) {
  const struct x2a_step *step = step_of(r, setup, e->slot);
  bool has_code = (u32)e->a == 8 || (u32)e->a == 13 || (u32)e->a == 14;
  switch (e->type) {
    case EVENT_VALUE:
      if (!step) return "a value of no step";
      if (is_over(r, e->slot)) return NULL; /* a read that faulted: the registers as they were */
      add(r, e->slot, value_of(step, e->a, e->b));
      return NULL;
    case EVENT_FAULT:
      if (!(e->at & AT_START)) return "an exception outside every step";
      add(r, e->slot,
          (struct x2a_outcome){.kind = X2A_FAULT,
                               .value = (u32)e->a,
                               .error_code = (u32)(e->a >> 32),
                               .no_error_code = !has_code});
      return NULL;
    case EVENT_DELIVERY:
      if (e->at & AT_OTHER) return "an interrupt outside the case's code";
      deliver(r, setup, (u8)e->a, e->at, e->slot);
      return NULL;
    case EVENT_RETURN: end_handler(r); return NULL;
  }
  return "an unknown event";
}

/* A guest that does not go on: in a step, or in the HLT state right behind one. */
static void end_stuck(struct reader *r, const struct payload *p, u64 rip, struct x2a_outcome outcome) {
  const struct stream *s = &r->stream[r->depth];
  u32 place = 0, slot = s->first_slot;
  while (place + 1 < s->slots && (!p->behind[slot + place] || p->code + p->behind[slot + place] < rip))
    place++;
  if (place >= s->slots) return;
  if (r->stream[r->depth].passed < place) r->stream[r->depth].passed = place;
  x2a_add_outcome(r->o, result_of(r, s, place), outcome);
  for (unsigned depth = 1; depth <= r->depth; depth++) complete_passed(r, &r->stream[depth]);
}

const char *payload_read(const struct payload *p, const void *events, const struct x2a_program *program,
                         unsigned vcpu, const struct x2a_outcome *stuck, u64 rip, struct x2a_observation *o) {
  struct reader r = {.program = program, .o = o};
  const char *wrong = NULL;
  for (u16 i = 0; i < program->steps; i++)
    if (program->step[i].vcpu == vcpu) r.own[r.stream[0].slots++] = i;
  if (p->events_used > p->events_room) return "more events than room";
  for (u32 at = 0; at < p->events_used && !wrong; at += sizeof(struct wire_event)) {
    struct wire_event event;
    memcpy(&event, (const u8 *)events + at, sizeof event);
    wrong = read_event(&r, &program->vcpu[vcpu], &event);
  }
  if (stuck)
    end_stuck(&r, p, rip, *stuck);
  else
    r.stream[0].passed = r.stream[0].slots;
  complete_passed(&r, &r.stream[0]);
  return wrong;
}
