#include "apic.h"
#include "machine.h"
#include "reach.h"
#include "vmx.h"

#define WINDOW ((u64)0xfee00000)
#define VERSION 0x03
#define PPR 0x0a
#define EOI 0x0b
#define SVR 0x0f
#define ISR 0x10
#define IRR 0x20
#define ESR 0x28
#define LVT_CMCI 0x2f
#define ICR 0x30
#define ICR_HIGH 0x31
#define TIMER_INITIAL_COUNT 0x38
#define DCR 0x3e
#define SELF_IPI 0x3f

#define SVR_ENABLED 0x1ff /* spurious vector FFH, software-enabled */
#define LVT_MASKED 0x10000
#define VECTORS_PER_WORD 32

/* Register numbers (MSR - 800H), which are also window offsets / 16. */
static const u8 watched[APIC_WATCHED] = {0x08, 0x0d, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16,
                                         0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20,
                                         0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x32, 0x33,
                                         0x34, 0x35, 0x36, 0x37, 0x38, 0x3e, 0x2f};
#define FIRST_ISR 3
#define FIRST_IRR 19
#define FIRST_LVT 28 /* index of 32H; from here on plain registers */

/* The last, LVT CMCI, is only there with seven LVT entries. */
static u32 watched_registers;

static u8 mode_now(void) {
  u64 base = rdmsr(MSR_APIC_BASE);
  return !(base & APIC_BASE_EN) ? MODE_DISABLED : base & APIC_BASE_EXTD ? MODE_X2APIC : MODE_XAPIC;
}

static u32 read(u8 mode, u32 number) {
  if (mode == MODE_X2APIC) return (u32)rdmsr(MSR_X2APIC + number);
  return *(volatile u32 *)(WINDOW + 16 * number);
}

static void write(u8 mode, u32 number, u32 value) {
  if (mode == MODE_X2APIC)
    (void)try_wrmsr(MSR_X2APIC + number, value);
  else
    *(volatile u32 *)(WINDOW + 16 * number) = value;
}

int apic_set_mode(struct cpu *c, u8 mode) {
  u64 base;
  if (c->mode == mode) return 1;
  base = rdmsr(MSR_APIC_BASE) & ~(u64)(APIC_BASE_EN | APIC_BASE_EXTD);
  if (mode == MODE_DISABLED) {
    (void)try_wrmsr(MSR_APIC_BASE, base);
  } else {
    if (mode_now() == MODE_X2APIC) (void)try_wrmsr(MSR_APIC_BASE, base);
    (void)try_wrmsr(MSR_APIC_BASE, base | APIC_BASE_EN);
    if (mode == MODE_X2APIC) (void)try_wrmsr(MSR_APIC_BASE, base | APIC_BASE_EN | APIC_BASE_EXTD);
  }
  c->mode = mode_now();
  return c->mode == mode;
}

void apic_eoi(void) {
  u8 mode = mode_now();
  if (mode != MODE_DISABLED) write(mode, EOI, 0);
}

void apic_raise(u8 vector) {
  u8 mode = mode_now();
  if (mode == MODE_X2APIC)
    wrmsr(MSR_X2APIC + SELF_IPI, vector);
  else if (mode == MODE_XAPIC)
    write(mode, ICR, 0x44000u | vector); /* shorthand self, fixed, asserted */
}

/* Opens the interrupt window in root operation; host_trap takes what comes and ends it. */
void apic_drain(void) { asm volatile("sti; nop; nop; cli" ::: "memory"); }

void apic_start_others(void) {
  write(MODE_XAPIC, ICR, 0xc4500); /* INIT, all excluding self */
  for (int i = 0; i < 1000; i++) asm volatile("pause");
  for (int twice = 0; twice < 2; twice++) {
    write(MODE_XAPIC, ICR, 0xc4600 | (u32)boot.start_vector);
    for (int i = 0; i < 1000; i++) asm volatile("pause");
  }
}

void apic_send(u32 apic_id, u32 command) {
  u8 mode = mode_now();
  if (mode == MODE_X2APIC) {
    wrmsr(MSR_X2APIC + ICR, (u64)apic_id << 32 | command);
  } else if (mode == MODE_XAPIC) {
    write(mode, ICR_HIGH, apic_id << 24);
    write(mode, ICR, command);
  }
}

static void send_and_wait(u32 apic_id, u32 command) {
  apic_send(apic_id, command);
  for (int i = 0; i < 1000; i++) asm volatile("pause");
}

/* Not in .bss: the first processor reads it before .bss is cleared. */
struct cpu *volatile restarting __attribute__((section(".data")));

void apic_restart(u32 vcpu) {
  struct cpu *c = &cpus[vcpu % MAX_CPUS];
  restarting = c;
  send_and_wait(c->apic_id, 0x4500); /* INIT */
  send_and_wait(c->apic_id, 0x4600 | (u32)boot.start_vector);
  send_and_wait(c->apic_id, 0x4600 | (u32)boot.start_vector);
}

static void snapshot(u8 mode, u32 *to) {
  for (u32 i = 0; i < watched_registers; i++) to[i] = read(mode, watched[i]);
}

/* What a firmware, or a machine that starts with LINT0 open for its 8259s, has left otherwise. */
static void settle(const u32 *found) {
  for (u32 i = FIRST_LVT; i < watched_registers; i++) {
    u32 quiet = watched[i] == TIMER_INITIAL_COUNT || watched[i] == DCR ? 0 : LVT_MASKED;
    if (found[i] != quiet) write(MODE_XAPIC, watched[i], quiet);
  }
  if (found[0]) write(MODE_XAPIC, watched[0], 0);
}

void apic_init(struct cpu *c) {
  c->mode = mode_now();
  (void)apic_set_mode(c, MODE_XAPIC);
  watched_registers = (read(MODE_XAPIC, VERSION) >> 16 & 0xff) >= 6 ? APIC_WATCHED : APIC_WATCHED - 1;
  c->base_at_reset = (u32)rdmsr(MSR_APIC_BASE);
  snapshot(MODE_XAPIC, c->at_reset);
  settle(c->at_reset);
  write(MODE_XAPIC, SVR, SVR_ENABLED);
  snapshot(MODE_XAPIC, c->baseline);
  c->expected_mode = c->mode = MODE_XAPIC;
}

/* The first write brings errors into the ESR that no read has shown so far, the second clears them. */
void apic_clear_errors(const struct cpu *c) {
  u8 mode = c->mode;
  if (mode == MODE_DISABLED) return;
  write(mode, ESR, 0);
  write(mode, ESR, 0);
}

void apic_rebase(struct cpu *c) {
  u8 mode = c->mode;
  u64 value;
  c->uncounted_cmci =
      mode == MODE_X2APIC && watched_registers < APIC_WATCHED && !try_rdmsr(MSR_X2APIC + LVT_CMCI, &value);
  if (mode == MODE_DISABLED) return;
  apic_clear_errors(c); /* of that look: some count it */
  snapshot(mode, c->baseline);
}

void apic_mask_uncounted(const struct cpu *c) {
  if (c->uncounted_cmci) (void)try_wrmsr(MSR_X2APIC + LVT_CMCI, LVT_MASKED);
}

/* Unrolled for each mode, since every case goes through here. */
static inline __attribute__((always_inline)) int is_at_baseline(u8 mode, const struct cpu *c) {
  u32 difference = 0;
#pragma GCC unroll 64
  for (u32 i = 0; i < APIC_WATCHED - 1; i++) difference |= read(mode, watched[i]) ^ c->baseline[i];
  if (watched_registers == APIC_WATCHED)
    difference |= read(mode, watched[APIC_WATCHED - 1]) ^ c->baseline[APIC_WATCHED - 1];
  return !difference;
}

static u32 any(const u32 *words) {
  return words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7];
}

/* Not ISR and TMR, of which PPR and the ICR tell: see reach.h. */
static int is_reach_at_baseline(u8 mode, const struct cpu *c) {
  if (mode == MODE_DISABLED) return 1;
  for (u32 i = 0; i < watched_registers; i++)
    if (c->reach >> watched[i] & 1 && read(mode, watched[i]) != c->baseline[i]) return 0;
  return !(c->reach & REACH_PPR) || !read(mode, PPR);
}

u32 apic_changes(struct cpu *c, struct wire_register *to) {
  u8 mode;
  u32 n = 0;
  if (c->reach != REACH_ALL && is_reach_at_baseline(c->mode, c)) return 0;
  mode = c->mode = mode_now();
  if (mode != c->expected_mode) {
    *to = (struct wire_register){MSR_APIC_BASE, (u32)rdmsr(MSR_APIC_BASE)};
    return 1;
  }
  if (mode == MODE_DISABLED) return 0;
  if (!under_hypervisor && /* where it would read all twice */
      (mode == MODE_X2APIC ? is_at_baseline(MODE_X2APIC, c) : is_at_baseline(MODE_XAPIC, c)))
    return 0;
  snapshot(mode, c->present);
  for (u32 i = 0; i < watched_registers; i++)
    if (c->present[i] != c->baseline[i])
      to[n++] = (struct wire_register){MSR_X2APIC + watched[i], c->present[i]};
  return n;
}

u32 apic_after_reset(const struct cpu *c, struct wire_register *to) {
  u32 n = 0;
  to[n++] = (struct wire_register){MSR_APIC_BASE, c->base_at_reset};
  for (u32 i = 0; i < watched_registers; i++)
    to[n++] = (struct wire_register){MSR_X2APIC + watched[i], c->at_reset[i]};
  return n;
}

/* Called after apic_changes found something. The LDR follows the mode; the rest is written back. */
int apic_restore(struct cpu *c) {
  u8 mode = c->expected_mode;
  if (!apic_set_mode(c, mode)) return 0;
  if (mode == MODE_DISABLED) return 1;
  write(mode, TIMER_INITIAL_COUNT, 0);
  write(mode, SVR, SVR_ENABLED);
  write(mode, 0x08, 0);
  for (u32 round = 0; round < 8 * VECTORS_PER_WORD; round++) {
    snapshot(mode, c->present);
    if (c->present[FIRST_IRR] & 0xffff) return 0; /* an illegal vector would look like an exception */
    if (any(c->present + FIRST_ISR)) apic_eoi();
    if (any(c->present + FIRST_IRR)) apic_drain();
    if (!any(c->present + FIRST_ISR) && !any(c->present + FIRST_IRR)) break;
  }
  for (u32 i = FIRST_LVT; i < watched_registers; i++)
    if (c->present[i] != c->baseline[i]) write(mode, watched[i], c->baseline[i]);
  apic_clear_errors(c);
  snapshot(mode, c->present);
  for (u32 i = 0; i < watched_registers; i++)
    if (c->present[i] != c->baseline[i]) return 0;
  return 1;
}
