/* RDMSR, WRMSR and MOV CR8. SDM: "Relative Priority of Faults and VM Exits", "Instructions That Cause VM Exits
 * Conditionally", "Virtualizing MSR-Based APIC Accesses", "Virtualizing CR8-Based TPR Accesses". */
#include "instruction.h"

static void end_write(struct cpu *c, const struct instruction *i, struct trap t) {
  if (t.fault) {
    fault(c, i, GENERAL_PROTECTION);
  } else if (t.exit) {
    end_instruction(c, i);
    vm_exit(c, (struct vm_exit){
                   .reason = t.reason, .place = BEHIND_INSTRUCTION, .qualification = t.qualification});
  } else {
    completed(c, i);
  }
}

/* "MSR-Bitmap Address" */
static bool msr_exits(const struct cpu *c, u32 msr, bool write) {
  u64 bitmap = c->vmcs[MSR_BITMAP_ADDRESS] + (write ? 0x800 : 0);
  if (!c->non_root) return false;
  if (!(c->primary & PRIMARY_MSR_BITMAPS)) return true;
  if (msr >= 0xc0000000 && msr <= 0xc0001fff) {
    bitmap += 0x400;
    msr &= 0x1fff;
  }
  return msr > 0x1fff || *memory(bitmap + msr / 8, 1) >> msr % 8 & 1;
}

static bool is_virtualized_read(const struct cpu *c, u32 msr) {
  return c->non_root && c->secondary & SECONDARY_X2APIC_MODE && msr >> 8 == 8 &&
         (c->secondary & SECONDARY_REGISTERS || msr == APIC_TPR);
}

void rdmsr(struct cpu *c, const struct instruction *i) {
  u32 msr = i->step->arg;
  u64 value;
  if (i->cpl)
    fault(c, i, GENERAL_PROTECTION);
  else if (msr_exits(c, msr, false))
    exit_of(c, i, REASON_RDMSR, 0, 2);
  else if (is_virtualized_read(c, msr))
    completed_with(c, i, load64(c->vmcs[VIRTUAL_APIC_ADDRESS] + PAGE_OFFSET(msr)));
  else if (read_msr(c, msr, &value))
    completed_with(c, i, value);
  else
    fault(c, i, GENERAL_PROTECTION);
}

void wrmsr(struct cpu *c, const struct instruction *i, u32 msr, u64 value) {
  if (i->cpl)
    fault(c, i, GENERAL_PROTECTION);
  else if (msr_exits(c, msr, true))
    exit_of(c, i, REASON_WRMSR, 0, 2);
  else if (c->non_root && is_virtualized_write(c, msr))
    end_write(c, i, virtualized_write(c, msr, value));
  else if (write_msr(c, msr, value))
    completed(c, i);
  else
    fault(c, i, GENERAL_PROTECTION);
}

void read_cr8(struct cpu *c, const struct instruction *i) {
  bool shadow = c->non_root && c->primary & PRIMARY_TPR_SHADOW;
  if (i->cpl)
    fault(c, i, GENERAL_PROTECTION);
  else if (c->non_root && c->primary & PRIMARY_CR8_STORE_EXITING)
    exit_of(c, i, REASON_CONTROL_REGISTER, 0x18, 4);
  else
    completed_with(c, i, (shadow ? load32(c->vmcs[VIRTUAL_APIC_ADDRESS] + VTPR) : c->apic.tpr) >> 4 & 0xf);
}

void write_cr8(struct cpu *c, const struct instruction *i) {
  u64 value = i->step->value;
  if (i->cpl) {
    fault(c, i, GENERAL_PROTECTION);
  } else if (c->non_root && c->primary & PRIMARY_CR8_LOAD_EXITING) {
    exit_of(c, i, REASON_CONTROL_REGISTER, 8, 4);
  } else if (value >> 4) {
    fault(c, i, GENERAL_PROTECTION);
  } else if (c->non_root && c->primary & PRIMARY_TPR_SHADOW) {
    store32(c->vmcs[VIRTUAL_APIC_ADDRESS] + VTPR, (u32)value << 4);
    end_write(c, i, tpr_virtualization(c));
  } else {
    c->apic.tpr = (u8)(value << 4);
    completed(c, i);
  }
}
