/* The registers of the local APIC, and the interrupts that writing them sends. */
#include "lapic.h"

/* ---- Interprocessor interrupts. SDM: "Issuing Interprocessor Interrupts" ---- */

void lapic_send(struct machine *m, u32 id, u8 vector) {
  for (unsigned i = 0; i < m->cpus; i++)
    if (m->cpu[i].apic.id == id) lapic_accept(&m->cpu[i].apic, vector);
}

static u32 logical_id(const struct lapic *l) {
  return lapic_mode(l) == X2A_X2APIC ? (l->id & 0xffff0) << 12 | 1u << (l->id & 0xf) : 0;
}

static bool is_destination(const struct lapic *l, const struct lapic *sender, u64 icr) {
  u32 destination = (u32)(icr >> 32), own = logical_id(l);
  switch (icr >> 18 & 3) {
    case 1: return l == sender;
    case 2: return true;
    case 3: return l != sender;
  }
  if (destination == 0xffffffff) return true;
  if (!(icr & 0x800)) return destination == l->id;
  return own >> 16 == destination >> 16 && own & destination & 0xffff;
}

static void write_icr(struct lapic *l, u64 value) {
  l->icr = value & ~0x1000ull;
  if (value & 0x700) return; /* not a fixed interrupt: nothing in this machine answers it */
  if ((value & 0xff) < LOWEST_VECTOR) {
    lapic_note_error(l, ERROR_SEND_ILLEGAL_VECTOR);
    if ((value >> 18 & 3) != 1) return; /* to others it is not sent */
  }
  for (unsigned i = 0; i < l->machine->cpus; i++)
    if (is_destination(&l->machine->cpu[i].apic, l, value)) lapic_accept(&l->machine->cpu[i].apic, (u8)value);
}

static void self_ipi(struct lapic *l, u8 vector) {
  if (vector < LOWEST_VECTOR) lapic_note_error(l, ERROR_SEND_ILLEGAL_VECTOR);
  lapic_accept(l, vector); /* which notes that it received an illegal one, too */
}

/* ---- Registers. SDM: "x2APIC Register Address Space", "Reserved Bit Checking" ---- */

static void software_disable(struct lapic *l) {
  for (u32 i = 0; i < 7; i++) l->lvt[i] |= LVT_MASKED;
}

/* The bits that a write may set; the read-only ones of an LVT entry are among them. */
static u64 may_set(u32 msr) {
  switch (msr) {
    case APIC_TPR:
    case APIC_SELF_IPI: return 0xff;
    case APIC_SVR: return 0x11ff;
    case APIC_EOI:
    case APIC_ESR: return 0;
    case APIC_ICR: return 0xffffffff000cdfff;
    case APIC_LVT_TIMER: return 0x710ff;
    case APIC_LVT_CMCI:
    case APIC_LVT_THERMAL:
    case APIC_LVT_PERF: return 0x117ff;
    case APIC_LVT_LINT0:
    case APIC_LVT_LINT1: return 0x1f7ff;
    case APIC_LVT_ERROR: return 0x110ff;
    case APIC_INITIAL_COUNT: return 0xffffffff;
    case APIC_DCR: return 0xb;
  }
  return 0;
}

static bool is_lvt(u32 msr) {
  return msr == APIC_LVT_CMCI || (msr >= APIC_LVT_TIMER && msr <= APIC_LVT_ERROR);
}

static void write_lvt(struct lapic *l, u32 msr, u32 value) {
  value &= ~0x5000u; /* delivery status and remote IRR are read-only */
  if (!(l->svr & SVR_ENABLED)) value |= LVT_MASKED;
  if (msr == APIC_LVT_TIMER)
    lapic_set_timer_entry(l, value);
  else
    *lapic_lvt(l, msr) = value;
}

/* WRMSR. False: #GP(0), and nothing has changed. */
bool lapic_write(struct lapic *l, u32 msr, u64 value) {
  if (lapic_mode(l) != X2A_X2APIC || value & ~may_set(msr)) return false;
  if (is_lvt(msr)) {
    if (msr == APIC_LVT_TIMER && (value >> 17 & 3) == 3) return false;
    write_lvt(l, msr, (u32)value);
    return true;
  }
  switch (msr) {
    case APIC_TPR: l->tpr = (u8)value; return true;
    case APIC_EOI: lapic_eoi(l); return true;
    case APIC_SVR:
      l->svr = (u32)value;
      if (!(value & SVR_ENABLED)) software_disable(l);
      return true;
    case APIC_ESR:
      l->esr = l->errors;
      l->errors = 0;
      return true;
    case APIC_ICR: write_icr(l, value); return true;
    case APIC_INITIAL_COUNT: lapic_start_timer(l, (u32)value); return true;
    case APIC_DCR: l->dcr = (u32)value; return true;
    case APIC_SELF_IPI: self_ipi(l, (u8)value); return true;
  }
  return false;
}

/* The register, whatever the mode. */
u64 lapic_register(const struct lapic *l, u32 msr) {
  if (is_lvt(msr)) return *lapic_lvt((struct lapic *)l, msr);
  if (msr >= APIC_ISR && msr < APIC_ISR + 8) return l->isr[msr - APIC_ISR];
  if (msr >= APIC_TMR && msr < APIC_TMR + 8) return l->tmr[msr - APIC_TMR];
  if (msr >= APIC_IRR && msr < APIC_IRR + 8) return l->irr[msr - APIC_IRR];
  switch (msr) {
    case MSR_APIC_BASE: return l->base;
    case APIC_ID: return l->id;
    case APIC_VERSION: return LAPIC_VERSION;
    case APIC_TPR: return l->tpr;
    case APIC_PPR: return lapic_ppr(l);
    case APIC_LDR: return logical_id(l);
    case APIC_SVR: return l->svr;
    case APIC_ESR: return l->esr;
    case APIC_ICR: return l->icr;
    case APIC_INITIAL_COUNT: return l->initial_count;
    case APIC_CURRENT_COUNT: return lapic_current_count(l);
    case APIC_DCR: return l->dcr;
  }
  return 0;
}

static bool is_readable(u32 msr) {
  return is_lvt(msr) || (msr >= APIC_ISR && msr <= APIC_ESR) || msr == APIC_ID || msr == APIC_VERSION ||
         msr == APIC_TPR || msr == APIC_PPR || msr == APIC_LDR || msr == APIC_SVR || msr == APIC_ICR ||
         msr == APIC_INITIAL_COUNT || msr == APIC_CURRENT_COUNT || msr == APIC_DCR;
}

/* RDMSR. False: #GP(0). */
bool lapic_read(const struct lapic *l, u32 msr, u64 *value) {
  if (lapic_mode(l) != X2A_X2APIC || !is_readable(msr)) return false;
  *value = lapic_register(l, msr);
  return true;
}

/* A load from the page at IA32_APIC_BASE; outside xAPIC mode nothing answers. */
u32 lapic_load(const struct lapic *l, u32 offset) {
  u32 msr = 0x800 + (offset >> 4);
  if (lapic_mode(l) != X2A_XAPIC || offset & 0xf) return 0xffffffff;
  if (msr == APIC_ID) return l->id << 24;
  if (offset == 0xe0) return 0xffffffff; /* destination format */
  if (offset == 0x310) return (u32)(l->icr >> 32);
  return is_readable(msr) ? (u32)lapic_register(l, msr) : 0;
}
