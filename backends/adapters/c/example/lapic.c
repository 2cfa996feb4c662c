/* The local APIC of a processor: its state, priorities and timer. SDM: "Local APIC", "Extended XAPIC (x2APIC)". */
#include "lapic.h"

#define BASE_RESERVED (~((1ull << PHYSICAL_ADDRESS_WIDTH) - 1) | 0x2ff)
#define BASE_EXTD 0x400u
#define BASE_EN 0x800u
#define TIMER_PERIODIC 0x20000u
#define TIMER_DEADLINE 0x40000u

int highest_vector(const u32 set[8]) {
  for (int word = 7; word >= 0; word--)
    if (set[word]) return 32 * word + 31 - __builtin_clz(set[word]);
  return -1;
}

static void set_bit(u32 set[8], u8 vector) { set[vector / 32] |= 1u << vector % 32; }
static void clear_bit(u32 set[8], u8 vector) { set[vector / 32] &= ~(1u << vector % 32); }

u32 *lapic_lvt(struct lapic *l, u32 msr) {
  return &l->lvt[msr == APIC_LVT_CMCI ? 0 : msr - APIC_LVT_TIMER + 1];
}

/* SDM: "Local APIC State After Power-Up or Reset". */
void lapic_reset(struct lapic *l, u64 base) {
  *l = (struct lapic){.machine = l->machine, .id = l->id, .base = base, .svr = 0xff};
  for (u32 i = 0; i < 7; i++) l->lvt[i] = LVT_MASKED;
}

/* SDM: "Local APIC State After It Receives an INIT Reset"; in x2APIC mode it keeps the mode. */
void lapic_init(struct lapic *l) { lapic_reset(l, l->base); }

enum x2a_apic_mode lapic_mode(const struct lapic *l) {
  if (!(l->base & BASE_EN)) return X2A_DISABLED;
  return l->base & BASE_EXTD ? X2A_X2APIC : X2A_XAPIC;
}

/* SDM: "x2APIC State Transitions". */
bool lapic_set_base(struct lapic *l, u64 value) {
  u64 from = l->base & (BASE_EN | BASE_EXTD), to = value & (BASE_EN | BASE_EXTD);
  if (value & BASE_RESERVED) return false;
  if (to == BASE_EXTD) return false;
  if (from == 0 && to == (BASE_EN | BASE_EXTD)) return false;
  if (from == (BASE_EN | BASE_EXTD) && to == BASE_EN) return false;
  if (from && !to) lapic_reset(l, value);
  if (!(from & BASE_EXTD) && to & BASE_EXTD) l->icr &= 0xffffffff; /* ICR[63:32] is not kept */
  l->base = value;
  return true;
}

/* SDM: "Task and Processor Priorities". Of equal classes the sub-class is TPR's here. */
u8 lapic_ppr(const struct lapic *l) {
  int in_service = highest_vector(l->isr);
  int class = in_service < 0 ? 0 : in_service & 0xf0;
  return (l->tpr & 0xf0) >= class ? l->tpr : (u8)class;
}

/* The vector that the APIC would give to an interrupt-acknowledge cycle, or -1. */
int lapic_deliverable(const struct lapic *l) {
  int vector = highest_vector(l->irr);
  if (vector < 0 || !(l->svr & SVR_ENABLED) || lapic_mode(l) == X2A_DISABLED) return -1;
  return vector >> 4 > lapic_ppr(l) >> 4 ? vector : -1;
}

int lapic_acknowledge(struct lapic *l) {
  int vector = lapic_deliverable(l);
  clear_bit(l->irr, (u8)vector);
  set_bit(l->isr, (u8)vector);
  return vector;
}

void lapic_eoi(struct lapic *l) {
  int vector = highest_vector(l->isr);
  if (vector >= 0) clear_bit(l->isr, (u8)vector);
}

void lapic_note_error(struct lapic *l, u32 error) {
  u32 entry = *lapic_lvt(l, APIC_LVT_ERROR);
  l->errors |= error;
  if (!(entry & LVT_MASKED) && (entry & 0xff) >= LOWEST_VECTOR) lapic_accept(l, (u8)entry);
}

/* SDM: "Interrupt Acceptance for Fixed Interrupts". A software-disabled APIC takes none. */
void lapic_accept(struct lapic *l, u8 vector) {
  if (!(l->svr & SVR_ENABLED) || lapic_mode(l) == X2A_DISABLED) return;
  if (vector < LOWEST_VECTOR) {
    lapic_note_error(l, ERROR_RECEIVED_ILLEGAL_VECTOR);
    return;
  }
  set_bit(l->irr, vector);
  clear_bit(l->tmr, vector);
}

/* ---- The timer. SDM: "APIC Timer" ---- */

static u64 divisor(const struct lapic *l) {
  u32 code = (l->dcr & 3) | (l->dcr >> 1 & 4);
  return code == 7 ? 1 : 2ull << code;
}

u64 lapic_current_count(const struct lapic *l) {
  if (!l->armed || *lapic_lvt((struct lapic *)l, APIC_LVT_TIMER) & TIMER_DEADLINE) return 0;
  return l->expires <= l->machine->clock ? 0 : (l->expires - l->machine->clock + divisor(l) - 1) / divisor(l);
}

void lapic_start_timer(struct lapic *l, u32 count) {
  if (*lapic_lvt(l, APIC_LVT_TIMER) & TIMER_DEADLINE) return;
  l->initial_count = count;
  l->armed = count != 0;
  l->expires = l->machine->clock + count * divisor(l);
}

void lapic_set_timer_entry(struct lapic *l, u32 value) {
  u32 *entry = lapic_lvt(l, APIC_LVT_TIMER);
  if ((*entry ^ value) & TIMER_DEADLINE) {
    l->armed = false;
    l->deadline = l->initial_count = 0;
  }
  *entry = value;
}

void lapic_set_deadline(struct lapic *l, u64 value) {
  if (!(*lapic_lvt(l, APIC_LVT_TIMER) & TIMER_DEADLINE)) return;
  l->deadline = l->expires = value;
  l->armed = value != 0;
}

void lapic_tick(struct lapic *l) {
  u32 entry = *lapic_lvt(l, APIC_LVT_TIMER);
  if (!l->armed || l->machine->clock < l->expires) return;
  if (entry & TIMER_PERIODIC && !(entry & TIMER_DEADLINE))
    l->expires += l->initial_count * divisor(l);
  else
    l->armed = false;
  l->deadline = 0;
  if (!(entry & LVT_MASKED)) lapic_accept(l, (u8)entry);
}

bool lapic_will_interrupt(const struct lapic *l) {
  return l->armed && !(*lapic_lvt((struct lapic *)l, APIC_LVT_TIMER) & LVT_MASKED);
}
