/* VM exits. SDM: chapter "VM Exits". */
#include "machine.h"

#define ABORT_STORE 1
#define ABORT_LOAD 4
#define SPEAKS_OF_APIC(msr) ((msr) >> 8 == 8)

/* "Saving Guest State" */
void save_guest(struct cpu *c) {
  c->vmcs[INTERRUPTIBILITY] = c->blocking;
  c->vmcs[ACTIVITY] = c->activity;
  c->vmcs[PENDING_DEBUG] = c->pending_debug;
  if (has_delivery(c)) c->vmcs[INTERRUPT_STATUS] = c->rvi | (u32)c->svi << 8;
  c->vmcs[ENTRY_INTERRUPTION_INFORMATION] &= ~(u64)EVENT_VALID;
}

static bool store_msr(struct cpu *c, u64 at) {
  u32 msr = load32(at);
  u64 value;
  if (load32(at + 4) || SPEAKS_OF_APIC(msr) || !read_msr(c, msr, &value)) return false;
  store64(at + 8, value);
  return true;
}

static bool load_msr(struct cpu *c, u64 at) {
  u32 msr = load32(at);
  return !load32(at + 4) && !SPEAKS_OF_APIC(msr) && write_msr(c, msr, load64(at + 8));
}

/* "Saving MSRs", "Loading MSRs": the VMX-abort indicator, or 0. */
static unsigned msr_areas(struct cpu *c) {
  for (u64 i = 0; i < c->vmcs[EXIT_STORE_COUNT]; i++)
    if (!store_msr(c, c->vmcs[EXIT_STORE_ADDRESS] + 16 * i)) return ABORT_STORE;
  c->non_root = false;
  for (u64 i = 0; i < c->vmcs[EXIT_LOAD_COUNT]; i++)
    if (!load_msr(c, c->vmcs[EXIT_LOAD_ADDRESS] + 16 * i)) return ABORT_LOAD;
  return 0;
}

static enum x2a_rip rip(const struct cpu *c, enum place place) {
  if (place == AT_INSTRUCTION) return c->behind_posting ? X2A_ELSEWHERE : X2A_SAME;
  return place == BETWEEN_INSTRUCTIONS ? rip_between(c) : X2A_NEXT;
}

static struct x2a_outcome as_outcome(const struct cpu *c, struct vm_exit e) {
  return (struct x2a_outcome){.kind = X2A_VM_EXIT,
                              .exit = {.reason = e.reason,
                                       .qualification = e.qualification,
                                       .rip = (u8)rip(c, e.place),
                                       .interruption_information = e.information,
                                       .instruction_length = e.length,
                                       .blocking = c->blocking,
                                       .activity = c->activity}};
}

/* A processor in VMX abort shows nothing any more. */
static void vmx_abort(struct cpu *c, unsigned indicator) {
  struct x2a_outcome abort = {.kind = X2A_VMX_ABORT, .value = indicator};
  if (c->exits == 1)
    c->machine->seen->entry[c->index] = abort;
  else
    x2a_add_outcome(c->machine->seen, owner(c), abort);
  c->state = FINISHED;
}

void vm_exit(struct cpu *c, struct vm_exit e) {
  unsigned indicator;
  if (c->halted_here) x2a_completed(c->machine->seen, owner(c));
  c->halted_here = false;
  save_guest(c);
  c->exits++;
  indicator = msr_areas(c);
  c->non_root = false;
  if (indicator) {
    vmx_abort(c, indicator);
    return;
  }
  c->state = IN_ROOT;
  if (e.place == AT_END) {
    c->state = FINISHED;
    return;
  }
  x2a_add_outcome(c->machine->seen, owner(c), as_outcome(c, e));
  after_exit(c, e.reason);
}
