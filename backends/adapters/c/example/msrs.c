/* MSRs as the processor itself has them, and the VMX capability MSRs. */
#include "machine.h"

#define PAIR(must, may) ((u64)(may) << 32 | (must))

/* SDM: appendix "VMX Capability Reporting Facility". Where the TRUE MSRs are not looked at, the whole of the
 * default1 class must be 1. No EPT, no VPID, no VM functions. */
bool vmx_capability(u32 msr, u64 *value) {
  switch (msr) {
    case 0x480: *value = 1ull << 55 | 6ull << 50 | 4096ull << 32 | 1; return true;
    case 0x481:
    case 0x48d: *value = PAIR(PIN_MUST, PIN_MAY); return true;
    case 0x482: *value = PAIR(PRIMARY_DEFAULT1, PRIMARY_MAY); return true;
    case 0x483: *value = PAIR(EXIT_DEFAULT1, EXIT_MAY); return true;
    case 0x484: *value = PAIR(ENTRY_DEFAULT1, ENTRY_MAY); return true;
    case 0x485: *value = 7u << 6; return true; /* activity states HLT, shutdown, wait-for-SIPI */
    case 0x486: *value = 0x80000021; return true;
    case 0x487: *value = 0xffffffff; return true;
    case 0x488: *value = 0x2000; return true;
    case 0x489: *value = 0x27ff; return true;
    case 0x48a: *value = 0x42; return true;
    case 0x48b: *value = PAIR(0, SECONDARY_MAY); return true;
    case 0x48e: *value = PAIR(PRIMARY_MUST, PRIMARY_MAY); return true;
    case 0x48f: *value = PAIR(EXIT_MUST, EXIT_MAY); return true;
    case 0x490: *value = PAIR(ENTRY_MUST, ENTRY_MAY); return true;
    case 0x492: *value = TERTIARY_MAY; return true;
  }
  return false;
}

static u64 *sysenter(struct cpu *c, u32 msr) {
  u64 *msrs = c->non_root || c->machine->program->level == X2A_GUEST ? c->sysenter : c->host_sysenter;
  return &msrs[msr - MSR_SYSENTER_CS];
}

static bool is_canonical(u64 address) { return (u64)((int64_t)(address << 16) >> 16) == address; }

/* False: #GP(0). */
bool read_msr(const struct cpu *c, u32 msr, u64 *value) {
  if (msr >> 8 == 8) return lapic_read(&c->apic, msr, value);
  if (msr >= MSR_VMX_FIRST && msr <= MSR_VMX_LAST) return vmx_capability(msr, value);
  if (msr >= MSR_SYSENTER_CS && msr < MSR_SYSENTER_CS + 3) {
    *value = *sysenter((struct cpu *)c, msr);
    return true;
  }
  *value = 0;
  switch (msr) {
    case 0: return true; /* IA32_P5_MC_ADDR */
    case MSR_APIC_BASE: *value = c->apic.base; return true;
    case MSR_TSC_DEADLINE: *value = c->apic.deadline; return true;
    case MSR_EFER: *value = 0x500; return true;
    case 0xc0000081: return true; /* IA32_STAR */
  }
  return false;
}

bool write_msr(struct cpu *c, u32 msr, u64 value) {
  if (msr >> 8 == 8) return lapic_write(&c->apic, msr, value);
  if (msr >= MSR_SYSENTER_CS && msr < MSR_SYSENTER_CS + 3) {
    if (msr != MSR_SYSENTER_CS && !is_canonical(value)) return false;
    *sysenter(c, msr) = value;
    return true;
  }
  switch (msr) {
    case 0: return true;
    case MSR_APIC_BASE: return lapic_set_base(&c->apic, value);
    case MSR_TSC_DEADLINE: lapic_set_deadline(&c->apic, value); return true;
    case MSR_EFER: return (value & ~0x400ull) == 0x100; /* LMA is ignored; nothing else may change here */
    case 0xc0000081: return value == 0;
  }
  return false;
}
