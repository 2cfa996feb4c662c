/* The guest's instructions but for its accesses to the APIC. SDM: chapter "VMX Non-Root Operation". */
#include "instruction.h"

/* The end of an instruction: what blocked up to here blocks no longer. */
void end_instruction(struct cpu *c, const struct instruction *i) {
  if (!c->fresh_blocking) c->blocking &= (u8) ~(BLOCKING_STI | BLOCKING_MOV_SS);
  c->fresh_blocking = false;
  if (i->trap_flag) c->pending_debug |= PENDING_BS;
  top(c)->next = (u16)(i->place + 1);
  top(c)->inside = false;
}

void completed(struct cpu *c, const struct instruction *i) {
  end_instruction(c, i);
  x2a_completed(c->machine->seen, i->result);
}

void completed_with(struct cpu *c, const struct instruction *i, u64 value) {
  end_instruction(c, i);
  x2a_value(c->machine->seen, i->result, value);
}

void exit_of(struct cpu *c, const struct instruction *i, enum reason reason, u64 qualification, u32 length) {
  top(c)->next = (u16)(i->place + 1);
  vm_exit(c,
          (struct vm_exit){
              .reason = reason, .place = AT_INSTRUCTION, .qualification = qualification, .length = length});
}

/* The guest's own handler of an exception goes on behind the instruction. */
void fault(struct cpu *c, const struct instruction *i, u8 vector) {
  bool has_code = vector == GENERAL_PROTECTION;
  top(c)->next = (u16)(i->place + 1);
  if (c->non_root && c->vmcs[EXCEPTION_BITMAP] >> vector & 1) {
    vm_exit(c, (struct vm_exit){.reason = REASON_EXCEPTION,
                                .place = AT_INSTRUCTION,
                                .information = EVENT_VALID | (has_code ? EVENT_ERROR_CODE : 0) |
                                               HARDWARE_EXCEPTION << 8 | vector});
    return;
  }
  c->blocking &= (u8) ~(BLOCKING_STI | BLOCKING_MOV_SS);
  unblock_nmis(c);
  x2a_add_outcome(c->machine->seen, i->result,
                  (struct x2a_outcome){.kind = X2A_FAULT, .value = vector, .no_error_code = !has_code});
}

/* STI, CLI and HLT at CPL 3 fault, since IOPL is 0. A shadow in force is not made longer. */
static void sti(struct cpu *c, const struct instruction *i) {
  if (!c->interrupt_flag && !(c->blocking & BLOCKING_MOV_SS)) {
    c->blocking |= BLOCKING_STI;
    c->fresh_blocking = true;
  }
  c->interrupt_flag = true;
  completed(c, i);
}

static void mov_ss(struct cpu *c, const struct instruction *i) {
  if (!(c->blocking & (BLOCKING_STI | BLOCKING_MOV_SS))) {
    c->blocking |= BLOCKING_MOV_SS;
    c->fresh_blocking = true;
  }
  completed(c, i);
}

/* The HLT completes when something ends it. */
static void hlt(struct cpu *c, const struct instruction *i) {
  if (c->non_root && c->primary & PRIMARY_HLT_EXITING) {
    exit_of(c, i, REASON_HLT, 0, 1);
    return;
  }
  end_instruction(c, i);
  c->activity = HALTED;
  c->halted_here = true;
}

static void cpuid(struct cpu *c, const struct instruction *i) {
  u64 ecx = 0, edx = 0;
  if (c->non_root) {
    exit_of(c, i, REASON_CPUID, 0, 2);
    return;
  }
  if (i->step->arg == 1) {
    ecx = 1u << 5 | 1u << 21 | 1u << 24; /* VMX, x2APIC, TSC deadline */
    edx = lapic_mode(&c->apic) == X2A_DISABLED ? 0 : 1u << 9;
  } else if (i->step->arg == 0xb) {
    ecx = 1u << 8;
    edx = c->apic.id;
  }
  completed_with(c, i, ecx | edx << 32);
}

static void mmio_read(struct cpu *c, const struct instruction *i) {
  u64 base = c->apic.base & ~0xfffull;
  if (c->non_root && c->secondary & SECONDARY_APIC_ACCESSES && c->vmcs[APIC_ACCESS_ADDRESS] == base)
    c->machine->trouble = "memory accesses to the APIC-access page: this model has only MSRs and CR8";
  completed_with(c, i, lapic_load(&c->apic, i->step->arg));
}

static void post(struct cpu *c, const struct instruction *i) {
  c->behind_posting = set_descriptor_bits(c->machine, i->step);
  if (c->behind_posting) c->blocking &= (u8) ~(BLOCKING_STI | BLOCKING_MOV_SS);
  if (~i->step->value)
    wrmsr(c, i, APIC_ICR, i->step->value | (u64)c->machine->cpu[i->step->arg].apic.id << 32);
  else
    completed(c, i);
  c->behind_posting = false;
}

static void set_apic_base(struct cpu *c, const struct instruction *i) {
  u64 mask = i->step->mask;
  wrmsr(c, i, MSR_APIC_BASE, (c->apic.base & ~mask) | (i->step->value & mask));
}

/* Executes one instruction, or a round of a wait; false where a wait goes on without change. */
static bool perform(struct cpu *c, const struct instruction *i) {
  switch (i->step->action) {
    case X2A_RDMSR: rdmsr(c, i); return true;
    case X2A_WRMSR: wrmsr(c, i, i->step->arg, i->step->value); return true;
    case X2A_READ_CR8: read_cr8(c, i); return true;
    case X2A_WRITE_CR8: write_cr8(c, i); return true;
    case X2A_NOP: completed(c, i); return true;
    case X2A_MOV_SS: mov_ss(c, i); return true;
    case X2A_CPUID: cpuid(c, i); return true;
    case X2A_MMIO_READ: mmio_read(c, i); return true;
    case X2A_SPIN: return spin(c, i);
    case X2A_BARRIER: return barrier(c, i);
    case X2A_POST: post(c, i); return true;
    case X2A_SET_APIC_BASE: set_apic_base(c, i); return true;
    case X2A_INIT_SIPI: return init_sipi(c, i);
    case X2A_DUMP_AT_RESET:
      c->reports_reset = true;
      completed(c, i);
      return true;
    case X2A_VMCALL:
      if (c->non_root)
        exit_of(c, i, REASON_VMCALL, 0, 3);
      else
        fault(c, i, INVALID_OPCODE);
      return true;
  }
  if (i->cpl) {
    fault(c, i, GENERAL_PROTECTION);
  } else if (i->step->action == X2A_STI) {
    sti(c, i);
  } else if (i->step->action == X2A_CLI) {
    c->interrupt_flag = false;
    completed(c, i);
  } else {
    hlt(c, i);
  }
  return true;
}

static void end_of_stream(struct cpu *c) {
  if (c->depth)
    iret(c);
  else if (c->non_root)
    vm_exit(c, (struct vm_exit){.reason = REASON_VMCALL, .place = AT_END});
  else
    c->state = FINISHED;
}

bool execute(struct cpu *c) {
  unsigned place = next_place(c);
  struct instruction i = {.place = place, .cpl = c->cpl, .trap_flag = c->trap_flag};
  if (place == top(c)->count) {
    end_of_stream(c);
    return true;
  }
  i.step = step_at(c, place);
  if (i.step->cpl) i.cpl = i.step->cpl;
  top(c)->last = (u16)place;
  i.result = c->depth ? top(c)->results + place : c->own[place];
  return perform(c, &i);
}
