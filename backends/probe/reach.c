#include "reach.h"
#include "vmx.h"

static u64 of_write(u32 msr) {
  u32 number = msr - MSR_X2APIC;
  if (msr == MSR_APIC_BASE || number == 0x30) return REACH_ALL; /* the ICR sets TMR bits too */
  switch (number) {
    case 0x08:
    case 0x0b: return REACH_PPR;
    case 0x3f: return REACH_PPR | REACH_IRR | REACH_ESR;
  }
  if (number == 0x2f || (number >= 0x32 && number <= 0x38)) /* LVT, initial count */
    return REACH(number) | REACH_IRR | REACH_ESR;
  return number < 0x40 ? REACH(number) : 0;
}

static u64 of_op(const struct wire_op *op) {
  switch (op->op) {
    case OP_WRMSR: return of_write(op->arg);
    case OP_WRITE_CR8: return REACH_PPR;
    case OP_RDMSR:
    case OP_READ_CR8:
    case OP_STI:
    case OP_CLI:
    case OP_NOP:
    case OP_MOV_SS:
    case OP_HLT:
    case OP_VMCALL:
    case OP_CPUID:
    case OP_ITEM:
    case OP_WORD:
    case OP_BITMAP_CLEAR:
    case OP_BITMAP_SET:
    case OP_INTERRUPT_FLAG:
    case OP_DONE: return 0;
  }
  return REACH_ALL; /* interrupts, other processors, the APIC's mode */
}

static u64 of_ops(const struct wire_op *ops, u32 count) {
  u64 reach = 0;
  for (u32 i = 0; i < count; i++) reach |= of_op(&ops[i]);
  return reach;
}

u64 reach_of(const struct cpu *c) {
  const struct wire_vcpu *b = c->block;
  const struct wire_item *items = (const struct wire_item *)(b + 1);
  const u8 *at = (const u8 *)(c->ops + b->ops);
  u64 reach = of_ops(c->ops, b->ops);
  if (c->record->vcpus > 1 || (c->record->level == LEVEL_GUEST && (reach || c->deliveries))) return REACH_ALL;
  for (u32 i = 0; i < b->items; i++)
    if (items[i].what >= ITEM_ENTRY_LOAD) reach |= of_write(items[i].how);
  for (u32 i = 0; i < b->handlers; i++) {
    const struct wire_handler *h = (const struct wire_handler *)at;
    reach |= of_ops((const struct wire_op *)(h + 1), h->ops);
    at = (const u8 *)((const struct wire_op *)(h + 1) + h->ops);
  }
  return c->deliveries ? reach | REACH_PPR : reach;
}
