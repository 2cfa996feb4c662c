#include "descriptor.h"
#include "machine.h"

u64 pid_pointers[PAGE / 8] __attribute__((aligned(PAGE)));

void descriptor_prepare(struct cpu *c) {
  fill32(c->descriptor, 0, 16);
  pid_pointers[c->index] = (u64)c->descriptor | 1;
  if (c->index) return;
  for (u32 i = c->record->vcpus; i < MAX_CPUS; i++) pid_pointers[i] = 0;
}

int descriptor_is_used(const struct cpu *c) {
  const u64 *word = (const u64 *)c->descriptor;
  return (word[0] | word[1] | word[2] | word[3] | word[4] | word[5] | word[6] | word[7]) != 0;
}

/* NDST, in bits 63:32 of the fifth word: in xAPIC mode only its bits 15:8 count. */
static u64 own_destination(const struct cpu *c) {
  return (u64)c->apic_id << (c->record->mode == MODE_X2APIC ? 32 : 40);
}

void descriptor_write_item(struct cpu *c, u32 what, u32 how, u64 value) {
  if (what == ITEM_PID_POINTER)
    pid_pointers[c->index] ^= 1ul << value;
  else
    ((u64 *)c->descriptor)[what & 7] = value | (how == HOW_OWN ? own_destination(c) : 0);
}
