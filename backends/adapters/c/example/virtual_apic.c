/* The virtual APIC. SDM: chapter "APIC Virtualization and Virtual Interrupts". */
#include "machine.h"

#define ICR_RESERVED 0xfff32000u
#define ICR_UNSUITABLE 0x000c9f00u /* shorthand, trigger mode, bit 12, destination mode, delivery mode */
#define OUTSTANDING 1u
#define SUPPRESS 2u

static u64 page(const struct cpu *c) { return c->vmcs[VIRTUAL_APIC_ADDRESS]; }

static u32 bit_offset(u32 base, u8 vector) { return base + (vector >> 5) * 16u; }

static void set_bit(struct cpu *c, u32 base, u8 vector) {
  u64 at = page(c) + bit_offset(base, vector);
  store32(at, load32(at) | 1u << (vector & 31));
}

static void clear_bit(struct cpu *c, u32 base, u8 vector) {
  u64 at = page(c) + bit_offset(base, vector);
  store32(at, load32(at) & ~(1u << (vector & 31)));
}

/* The highest vector set in VISR or VIRR, 0 where there is none. */
static u8 highest(const struct cpu *c, u32 base) {
  u32 set[8];
  int vector;
  for (unsigned i = 0; i < 8; i++) set[i] = load32(page(c) + base + 16 * i);
  vector = highest_vector(set);
  return vector < 0 ? 0 : (u8)vector;
}

bool has_delivery(const struct cpu *c) { return c->secondary & SECONDARY_DELIVERY; }

/* "PPR Virtualization" */
void ppr_virtualization(struct cpu *c) {
  u32 vtpr = load32(page(c) + VTPR) & 0xff;
  store32(page(c) + VPPR, vtpr >> 4 >= c->svi >> 4 ? vtpr : c->svi & 0xf0u);
}

/* "Evaluation of Pending Virtual Interrupts": replaces what was recognized before. */
void evaluate(struct cpu *c) {
  u32 vppr = load32(page(c) + VPPR);
  c->recognized = !(c->primary & PRIMARY_INTERRUPT_WINDOW_EXITING) && c->rvi >> 4 > (vppr >> 4 & 0xf);
}

static struct trap trap(enum reason reason, u64 qualification) {
  return (struct trap){.exit = true, .reason = reason, .qualification = qualification};
}

/* "TPR Virtualization" */
struct trap tpr_virtualization(struct cpu *c) {
  u32 class = load32(page(c) + VTPR) >> 4 & 0xf;
  if (has_delivery(c)) {
    ppr_virtualization(c);
    evaluate(c);
  } else if (class < (c->vmcs[TPR_THRESHOLD] & 0xf)) {
    return trap(REASON_TPR_BELOW_THRESHOLD, 0);
  }
  return (struct trap){0};
}

/* "EOI Virtualization" */
static struct trap eoi_virtualization(struct cpu *c) {
  u8 vector = c->svi;
  clear_bit(c, VISR, vector);
  c->svi = highest(c, VISR);
  ppr_virtualization(c);
  if (c->vmcs[EOI_EXIT_BITMAP_0 + vector / 64] >> vector % 64 & 1)
    return trap(REASON_VIRTUALIZED_EOI, vector);
  evaluate(c);
  return (struct trap){0};
}

/* "Self-IPI Virtualization", and what stands before it for MSR 83FH */
static struct trap self_ipi_virtualization(struct cpu *c, u8 vector) {
  if (vector < 16) return trap(REASON_APIC_WRITE, PAGE_OFFSET(APIC_SELF_IPI));
  set_bit(c, VIRR, vector);
  if (vector > c->rvi) c->rvi = vector;
  evaluate(c);
  return (struct trap){0};
}

/* The descriptor of a target, or 0 if the PID-pointer table has no legal entry for it. */
static u64 descriptor_of(const struct cpu *c, u32 target) {
  u64 entry;
  if (target > c->vmcs[LAST_PID_POINTER_INDEX]) return 0;
  entry = load64(c->vmcs[PID_POINTER_TABLE_ADDRESS] + 8ull * target);
  return (entry & 0x3f) == 1 && !(entry >> PHYSICAL_ADDRESS_WIDTH) ? entry - 1 : 0;
}

static void post(struct cpu *c, u64 descriptor, u8 vector) {
  u64 at = descriptor + vector / 64 * 8, control = load64(descriptor + 32);
  u32 destination = (u32)(control >> 32);
  store64(at, load64(at) | 1ull << vector % 64);
  if (control & (OUTSTANDING | SUPPRESS)) return;
  store64(descriptor + 32, control | OUTSTANDING);
  if (lapic_mode(&c->apic) != X2A_X2APIC) destination = destination >> 8 & 0xff;
  lapic_send(c->machine, destination, (u8)(control >> 16));
}

/* "IPI Virtualization" */
static struct trap ipi_virtualization(struct cpu *c, u64 icr) {
  u64 descriptor = 0;
  if (!(icr & ICR_UNSUITABLE) && (icr & 0xff) >= 16) descriptor = descriptor_of(c, (u32)(icr >> 32));
  if (!descriptor) return trap(REASON_APIC_WRITE, PAGE_OFFSET(APIC_ICR));
  post(c, descriptor, (u8)icr);
  return (struct trap){0};
}

bool is_virtualized_write(const struct cpu *c, u32 msr) {
  if (!(c->secondary & SECONDARY_X2APIC_MODE)) return false;
  switch (msr) {
    case APIC_TPR: return true;
    case APIC_EOI:
    case APIC_SELF_IPI: return has_delivery(c);
    case APIC_ICR: return c->tertiary & TERTIARY_IPI;
  }
  return false;
}

static u64 reserved_bits(u32 msr) {
  if (msr == APIC_EOI) return ~0ull;
  return msr == APIC_ICR ? ICR_RESERVED : ~0xffull;
}

/* "Virtualizing MSR-Based APIC Accesses": WRMSR */
struct trap virtualized_write(struct cpu *c, u32 msr, u64 value) {
  if (value & reserved_bits(msr)) return (struct trap){.fault = true};
  store64(page(c) + PAGE_OFFSET(msr), value);
  switch (msr) {
    case APIC_TPR: return tpr_virtualization(c);
    case APIC_EOI: return eoi_virtualization(c);
    case APIC_SELF_IPI: return self_ipi_virtualization(c, (u8)value);
  }
  return ipi_virtualization(c, value);
}

/* "Virtual-Interrupt Delivery": the state; the way through the IDT is the caller's. */
u8 take_virtual_interrupt(struct cpu *c) {
  u8 vector = c->rvi;
  set_bit(c, VISR, vector);
  c->svi = vector;
  store32(page(c) + VPPR, vector & 0xf0u);
  clear_bit(c, VIRR, vector);
  c->rvi = highest(c, VIRR);
  c->recognized = false;
  return vector;
}

/* "Posted-Interrupt Processing", from step 3 on: the vector is known to be the notification vector. */
void process_posted_interrupts(struct cpu *c) {
  u64 descriptor = c->vmcs[DESCRIPTOR_ADDRESS];
  u32 requested[8];
  int vector;
  store64(descriptor + 32, load64(descriptor + 32) & ~(u64)OUTSTANDING);
  lapic_eoi(&c->apic);
  for (unsigned i = 0; i < 8; i++) {
    u64 at = page(c) + VIRR + 16 * i;
    requested[i] = load32(descriptor + 4 * i);
    store32(descriptor + 4 * i, 0);
    store32(at, load32(at) | requested[i]);
  }
  vector = highest_vector(requested);
  if (vector > c->rvi) c->rvi = (u8)vector;
  evaluate(c);
}
