#include "fields.h"
#include "machine.h"
#include "vmx.h"

#define SLOTS 1024
#define KNOWN 1    /* the field holds `held` */
#define WAITING 2  /* `wanted` is for the next VM entry */
#define DEPARTED 4 /* a case has set something else than `base` */

struct list {
  u32 field[SLOTS];
  u32 count;
};

static struct table {
  u64 held[SLOTS], wanted[SLOTS], base[SLOTS];
  u8 state[SLOTS];
  struct list waiting, departed;
} tables[MAX_CPUS] __attribute__((section(".bss.tables")));

/* Bits of an encoding: 14:13 width, 11:10 type, 9:1 index, which for no field here is above 63. */
static u32 slot_of(u32 field) { return (field >> 13 & 3) << 8 | (field >> 10 & 3) << 6 | (field >> 1 & 63); }

/* A VM exit writes the guest-state area, DEBUGCTL where a control says so, and clears the valid bit of the
 * interruption information. SDM, Saving Guest State. */
static int changes_by_itself(const struct table *t, u32 field) {
  if (field == FIELD_IA32_DEBUGCTL)
    return (t->held[slot_of(FIELD_VM_EXIT_CONTROLS)] & EXIT_SAVE_DEBUG_CONTROLS) != 0;
  return (field >> 10 & 3) == 2 || field == FIELD_VM_ENTRY_INTERRUPTION_INFORMATION;
}

static void note(struct table *t, struct list *list, u32 slot, u32 field, u8 as) {
  if (t->state[slot] & as) return;
  t->state[slot] |= as;
  list->field[list->count++] = field;
}

static void put(struct table *t, u32 slot, u32 field, u64 value) {
  if (!under_hypervisor) {
    vmwrite(field, value);
    return;
  }
  note(t, &t->waiting, slot, field, WAITING);
  t->wanted[slot] = value;
}

void field_set(const struct cpu *c, u32 field, u64 value) {
  struct table *t = &tables[c->index];
  u32 slot = slot_of(field);
  note(t, &t->departed, slot, field, DEPARTED);
  put(t, slot, field, value);
}

void field_base(const struct cpu *c, u32 field, u64 value) {
  struct table *t = &tables[c->index];
  u32 slot = slot_of(field);
  t->base[slot] = value;
  put(t, slot, field, value);
}

u64 field_get(const struct cpu *c, u32 field) {
  const struct table *t = &tables[c->index];
  u32 slot = slot_of(field);
  if (!under_hypervisor) return vmread(field);
  if (t->state[slot] & WAITING) return t->wanted[slot];
  return t->state[slot] & KNOWN ? t->held[slot] : vmread(field);
}

void field_was_read(const struct cpu *c, u32 field, u64 value) {
  struct table *t = &tables[c->index];
  u32 slot = slot_of(field);
  t->held[slot] = value;
  t->state[slot] |= KNOWN;
}

void fields_restore(const struct cpu *c) {
  struct table *t = &tables[c->index];
  for (u32 i = 0; i < t->departed.count; i++) {
    u32 field = t->departed.field[i], slot = slot_of(field);
    t->state[slot] &= (u8)~DEPARTED;
    put(t, slot, field, t->base[slot]);
  }
  t->departed.count = 0;
}

void fields_write(const struct cpu *c) {
  struct table *t = &tables[c->index];
  for (u32 i = 0; i < t->waiting.count; i++) {
    u32 field = t->waiting.field[i], slot = slot_of(field);
    u8 state = t->state[slot] & DEPARTED;
    u64 value = t->wanted[slot];
    int same = t->state[slot] & KNOWN && t->held[slot] == value;
    if ((same || !vmwrite(field, value)) && !changes_by_itself(t, field)) state |= KNOWN;
    t->held[slot] = value;
    t->state[slot] = state;
  }
  t->waiting.count = 0;
}
