/* The VMM: what it writes into a VMCS, what it does at a VM exit, and its steps. */
#include "machine.h"

#define MAX_EXITS 1000

static const u16 encodings[] = {
#define ENCODING(name, encoding) encoding,
    VMCS_FIELDS(ENCODING)
#undef ENCODING
};

static u64 width_mask(u32 encoding) {
  static const u64 masks[] = {0xffff, ~0ull, 0xffffffff, ~0ull}; /* 16, 64, 32 bits, natural */
  return masks[encoding >> 13 & 3];
}

/* VMWRITE */
void write_field(struct cpu *c, u32 encoding, u64 value) {
  for (unsigned i = 0; i < FIELD_COUNT; i++) {
    if (encodings[i] != encoding) continue;
    c->vmcs[i] = value & width_mask(encoding);
    return;
  }
  c->machine->trouble = "a VMCS field that this model does not have";
}

static void change(struct cpu *c, const struct x2a_change *v) {
  u64 *status = &c->vmcs[INTERRUPT_STATUS];
  if (v->rvi >= 0) *status = (*status & 0xff00) | (u8)v->rvi;
  if (v->svi >= 0) *status = (*status & 0x00ff) | (u64)(u8)v->svi << 8;
  if (v->interrupt_flag >= 0) c->interrupt_flag = v->interrupt_flag;
  if (v->has_bitmap) memory_put(c->setup->bitmap_address, v->msr_bitmap, X2A_PAGE);
  for (unsigned i = 0; i < v->words; i++)
    store32(c->setup->page_address + v->word[i].offset, v->word[i].value);
  for (unsigned i = 0; i < v->fields; i++) write_field(c, v->field[i].encoding, v->field[i].value);
}

/* PIR bits, and ON: by locked instructions, whoever executes them; false if there are none. */
bool set_descriptor_bits(struct machine *m, const struct x2a_step *s) {
  u64 at = m->program->vcpu[s->arg].descriptor_address;
  for (unsigned i = 0; i < 4; i++) store64(at + 8 * i, load64(at + 8 * i) | s->bits[i]);
  if (s->outstanding) store64(at + 32, load64(at + 32) | 1);
  return s->outstanding || s->bits[0] | s->bits[1] | s->bits[2] | s->bits[3];
}

static void perform(struct cpu *c, const struct x2a_step *s) {
  struct machine *m = c->machine;
  switch (s->action) {
    case X2A_VMM: change(c, &m->program->change[s->arg]); break;
    case X2A_INJECT: c->vmcs[ENTRY_INTERRUPTION_INFORMATION] = EVENT_VALID | s->arg; break;
    case X2A_RAISE: lapic_accept(&c->apic, (u8)s->arg); break;
    case X2A_POST_BY_VMM:
      (void)set_descriptor_bits(m, s);
      if (~s->value) lapic_send(m, m->cpu[s->arg].apic.id, (u8)s->value);
      break;
  }
}

/* The VMM's steps from a place of the main stream up to the guest's next one. */
void perform_vmm_steps(struct cpu *c, unsigned place) {
  struct frame *main = &c->frame[0];
  while (place < c->steps && x2a_is_vmm(&c->machine->program->step[c->own[place]])) {
    perform(c, &c->machine->program->step[c->own[place]]);
    x2a_completed(c->machine->seen, c->own[place]);
    main->last = (u16)place++;
    main->next = (u16)place;
  }
}

static void take_external_interrupts(struct cpu *c) {
  if (c->exit_controls & EXIT_ACKNOWLEDGE) {
    lapic_eoi(&c->apic);
    return;
  }
  while (lapic_deliverable(&c->apic) >= 0) {
    lapic_acknowledge(&c->apic);
    lapic_eoi(&c->apic);
  }
}

/* What follows from the reason alone; false where the case ends. */
static bool react(struct cpu *c, enum reason reason) {
  switch (reason) {
    case REASON_CPUID:
    case REASON_HLT:
    case REASON_VMCALL:
    case REASON_CONTROL_REGISTER:
    case REASON_RDMSR:
    case REASON_WRMSR: c->vmcs[INTERRUPTIBILITY] &= ~(u64)(BLOCKING_STI | BLOCKING_MOV_SS); return true;
    case REASON_VIRTUALIZED_EOI:
    case REASON_APIC_WRITE: return true;
    case REASON_TPR_BELOW_THRESHOLD: c->vmcs[TPR_THRESHOLD] = 0; return true;
    case REASON_INTERRUPT_WINDOW:
      c->vmcs[PRIMARY_CONTROLS] &= ~(u64)PRIMARY_INTERRUPT_WINDOW_EXITING;
      return true;
    case REASON_EXTERNAL_INTERRUPT: take_external_interrupts(c); return true;
    default: return false;
  }
}

/* Goes on after a VM exit, unless it was behind the last step. */
void after_exit(struct cpu *c, enum reason reason) {
  unsigned place = c->frame[0].inside ? next_place(c) + 1 : c->frame[0].next;
  bool last = c->depth == 0 && place >= c->steps;
  if (last || c->exits > MAX_EXITS || !react(c, reason)) {
    c->state = FINISHED;
    return;
  }
  if (c->depth == 0) perform_vmm_steps(c, place);
}
