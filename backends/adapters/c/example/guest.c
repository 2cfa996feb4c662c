/* Where the guest is: in which stream, at which step, and to which step belongs what happens now. */
#include "machine.h"

struct frame *top(struct cpu *c) { return &c->frame[c->depth]; }

static const struct frame *inner(const struct cpu *c) { return &c->frame[c->depth]; }

static unsigned index_at(const struct cpu *c, unsigned place) {
  return c->depth ? inner(c)->first + place : c->own[place];
}

/* The step at a place of the stream that runs. */
const struct x2a_step *step_at(const struct cpu *c, unsigned place) {
  return &c->machine->program->step[index_at(c, place)];
}

/* The place of the instruction that comes next; the VMM's steps are none of the guest's. */
unsigned next_place(const struct cpu *c) {
  const struct frame *f = inner(c);
  unsigned place = f->next;
  while (place < f->count && x2a_is_vmm(step_at(c, place))) place++;
  return place;
}

/* The result to which belongs what happens now. Before a handler's first step that is what was
 * interrupted; a processor without steps has one of its own that nobody looks at. */
unsigned owner(const struct cpu *c) {
  unsigned depth = c->depth;
  const struct frame *f;
  while (depth > 0 && c->frame[depth].next == 0 && !c->frame[depth].inside) depth--;
  f = &c->frame[depth];
  if (depth) return (unsigned)(f->results + (f->inside ? f->next : f->last));
  if (!c->steps) return c->machine->program->steps;
  return c->own[f->inside ? next_place(c) : f->last];
}

/* The step to which the RIP points, as struct x2a_delivery counts. */
unsigned rip_step(const struct cpu *c) {
  unsigned place = next_place(c);
  if (c->depth) return place;
  return place < c->steps ? c->own[place] : c->machine->program->steps;
}

enum x2a_rip rip_between(const struct cpu *c) {
  const struct frame *f = inner(c);
  if (f->inside || (c->depth && f->next == 0)) return X2A_ELSEWHERE;
  return next_place(c) > 0 ? X2A_NEXT : X2A_SAME;
}

/* Ends the HLT state; the HLT that began it has completed. */
void wake(struct cpu *c) {
  if (c->halted_here) x2a_completed(c->machine->seen, owner(c));
  c->halted_here = false;
  c->activity = ACTIVE;
}
