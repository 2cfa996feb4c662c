#include "fields.h"
#include "machine.h"
#include "vmx.h"

#define SLOTS 1024
#define KNOWN 1   /* the field holds `held` */
#define WAITING 2 /* `wanted` is for the next VM entry */

static struct {
  u64 held[SLOTS], wanted[SLOTS];
  u8 state[SLOTS];
  u32 waiting[SLOTS];
  u32 count;
} tables[MAX_CPUS];

/* Bits of an encoding: 14:13 width, 11:10 type, 9:1 index, which for no field here is above 63. */
static u32 slot_of(u32 field) { return (field >> 13 & 3) << 8 | (field >> 10 & 3) << 6 | (field >> 1 & 63); }

/* A VM exit writes the guest-state area, and clears the valid bit of the interruption information. */
static int changes_by_itself(u32 field) {
  return (field >> 10 & 3) == 2 || field == FIELD_VM_ENTRY_INTERRUPTION_INFORMATION;
}

void field_set(const struct cpu *c, u32 field, u64 value) {
  u32 slot = slot_of(field);
  if (!(tables[c->index].state[slot] & WAITING)) {
    tables[c->index].state[slot] |= WAITING;
    tables[c->index].waiting[tables[c->index].count++] = field;
  }
  tables[c->index].wanted[slot] = value;
}

u64 field_get(const struct cpu *c, u32 field) {
  u32 slot = slot_of(field);
  u8 state = tables[c->index].state[slot];
  if (state & WAITING) return tables[c->index].wanted[slot];
  return state & KNOWN ? tables[c->index].held[slot] : vmread(field);
}

void field_was_read(const struct cpu *c, u32 field, u64 value) {
  u32 slot = slot_of(field);
  tables[c->index].held[slot] = value;
  tables[c->index].state[slot] |= KNOWN;
}

void fields_write(const struct cpu *c) {
  for (u32 i = 0; i < tables[c->index].count; i++) {
    u32 field = tables[c->index].waiting[i], slot = slot_of(field);
    u64 value = tables[c->index].wanted[slot];
    int same = tables[c->index].state[slot] & KNOWN && tables[c->index].held[slot] == value;
    int failed = !same && vmwrite(field, value);
    tables[c->index].held[slot] = value;
    tables[c->index].state[slot] = failed || changes_by_itself(field) ? 0 : KNOWN;
  }
  tables[c->index].count = 0;
}
