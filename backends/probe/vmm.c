#include "vmm.h"
#include "apic.h"
#include "guest.h"
#include "machine.h"
#include "page.h"
#include "vmx.h"

#define ACCESS_CODE 0xa09b
#define ACCESS_DATA 0xc093
#define ACCESS_USER_CODE 0xa0fb
#define ACCESS_USER_DATA 0xc0f3
#define ACCESS_TSS 0x8b
#define ACCESS_UNUSABLE 0x10000
#define INTERRUPTION_VALID 0x80000000u
#define MSR_AREA 1024 /* bytes for each of the three lists */
#define MAX_EXITS 1000

u64 guard_ticks;
int vm_enter(struct cpu *c, int resume);

static struct {
  u32 pin, primary, exit, entry; /* bits that must be 1 */
  u32 pin_allowed, primary_allowed, secondary_allowed, timer_rate;
  u64 beyond; /* the first bit beyond the physical-address width */
} capability;

void vmm_init(void) {
  int true_controls = rdmsr(MSR_VMX_BASIC) >> 55 & 1;
  u64 primary, secondary, pin = rdmsr(true_controls ? MSR_VMX_TRUE_PINBASED_CTLS : MSR_VMX_PINBASED_CTLS);
  capability.pin = (u32)pin;
  capability.pin_allowed = (u32)(pin >> 32);
  primary = rdmsr(true_controls ? MSR_VMX_TRUE_PROCBASED_CTLS : MSR_VMX_PROCBASED_CTLS);
  capability.primary = (u32)primary;
  capability.primary_allowed = (u32)(primary >> 32);
  if (!try_rdmsr(MSR_VMX_PROCBASED_CTLS2, &secondary))
    capability.secondary_allowed = (u32)(secondary >> 32);
  capability.exit = (u32)rdmsr(true_controls ? MSR_VMX_TRUE_EXIT_CTLS : MSR_VMX_EXIT_CTLS);
  capability.entry = (u32)rdmsr(true_controls ? MSR_VMX_TRUE_ENTRY_CTLS : MSR_VMX_ENTRY_CTLS);
  capability.timer_rate = rdmsr(MSR_VMX_MISC) & 31;
  capability.beyond = 1ul << (cpuid(0x80000008).eax & 0xff);
}

static void write_host_state(const struct cpu *c) {
  u64 cr0, cr3, cr4;
  asm volatile("mov %%cr0, %0; mov %%cr3, %1; mov %%cr4, %2" : "=r"(cr0), "=r"(cr3), "=r"(cr4));
  for (u32 i = 0; i < 6; i++)
    vmwrite(FIELD_HOST_SELECTOR + 2 * i, i == 1 ? SELECTOR_CODE : SELECTOR_DATA);
  vmwrite(FIELD_HOST_SELECTOR + 12, SELECTOR_TSS);
  vmwrite(FIELD_HOST_CR0, cr0);
  vmwrite(FIELD_HOST_CR3, cr3);
  vmwrite(FIELD_HOST_CR4, cr4);
  vmwrite(FIELD_HOST_FS_BASE, 0);
  vmwrite(FIELD_HOST_GS_BASE, (u64)c);
  vmwrite(FIELD_HOST_TR_BASE, (u64)c->tss);
  vmwrite(FIELD_HOST_GDTR_BASE, (u64)c->gdt);
  vmwrite(FIELD_HOST_IDTR_BASE, (u64)host_idt);
  vmwrite(FIELD_HOST_SYSENTER_CS, 0);
  vmwrite(FIELD_HOST_SYSENTER_ESP, 0);
  vmwrite(FIELD_HOST_SYSENTER_EIP, 0);
  vmwrite(FIELD_GUEST_CR0, cr0);
  vmwrite(FIELD_GUEST_CR3, cr3);
  vmwrite(FIELD_GUEST_CR4, cr4);
  vmwrite(FIELD_CR0_MASK, 0);
  vmwrite(FIELD_CR4_MASK, 0);
  vmwrite(FIELD_CR0_SHADOW, 0);
  vmwrite(FIELD_CR4_SHADOW, 0);
}

static u64 segment_selector(const struct cpu *c, u32 segment) {
  int user = c->block->guest & GUEST_CPL3;
  if (segment == 1) return user ? SELECTOR_USER_CODE : SELECTOR_CODE;
  if (segment == 6) return 0;
  if (segment == 7) return SELECTOR_TSS;
  return user ? SELECTOR_USER_DATA : SELECTOR_DATA;
}

static u64 segment_rights(const struct cpu *c, u32 segment) {
  int user = c->block->guest & GUEST_CPL3;
  if (segment == 1) return user ? ACCESS_USER_CODE : ACCESS_CODE;
  if (segment == 6) return ACCESS_UNUSABLE;
  if (segment == 7) return ACCESS_TSS;
  return user ? ACCESS_USER_DATA : ACCESS_DATA;
}

/* ES CS SS DS FS GS LDTR TR, GDTR, IDTR and what else no guest here changes but by going to CPL 3. */
static void write_segments(const struct cpu *c) {
  for (u32 i = 0; i < 8; i++) {
    vmwrite(FIELD_GUEST_SELECTOR + 2 * i, segment_selector(c, i));
    vmwrite(FIELD_GUEST_ACCESS_RIGHTS + 2 * i, segment_rights(c, i));
    vmwrite(FIELD_GUEST_LIMIT + 2 * i, i == 7 ? 0x67 : i == 6 ? 0 : 0xffffffff);
    vmwrite(FIELD_GUEST_BASE + 2 * i, i == 5 ? (u64)c : i == 7 ? (u64)c->tss : 0);
  }
  vmwrite(FIELD_GUEST_LIMIT + 16, sizeof(c->gdt) - 1);
  vmwrite(FIELD_GUEST_BASE + 16, (u64)c->gdt);
  vmwrite(FIELD_GUEST_LIMIT + 18, PAGE - 1);
  vmwrite(FIELD_GUEST_BASE + 18, (u64)guest_idt);
  vmwrite(FIELD_GUEST_DR7, 0x400);
  vmwrite(FIELD_GUEST_SYSENTER_CS, 0);
  vmwrite(FIELD_GUEST_SYSENTER_ESP, 0);
  vmwrite(FIELD_GUEST_SYSENTER_EIP, 0);
  vmwrite(FIELD_VMCS_LINK_POINTER, ~0ul);
}

static void write_guest_state(const struct cpu *c) {
  u8 guest = c->block->guest;
  vmwrite(FIELD_GUEST_RSP, (u64)c->stack + STACK_ROOM);
  vmwrite(FIELD_GUEST_RIP, (u64)c->layout.base);
  vmwrite(FIELD_GUEST_RFLAGS,
          2u | (guest & GUEST_IF ? RFLAGS_IF : 0) | (guest & GUEST_TF ? RFLAGS_TF : 0));
  vmwrite(FIELD_GUEST_INTERRUPTIBILITY_STATE, 0);
  vmwrite(FIELD_GUEST_ACTIVITY_STATE, 0);
  vmwrite(FIELD_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
  vmwrite(FIELD_IA32_DEBUGCTL, 0);
}

/* The address that belongs into a field on this processor. */
static u64 own_page(const struct cpu *c, u32 field) {
  switch (field) {
    case FIELD_VIRTUAL_APIC_ADDRESS: return (u64)c->page;
    case FIELD_MSR_BITMAP_ADDRESS: return (u64)c->bitmap;
    case FIELD_APIC_ACCESS_ADDRESS: return (u64)apic_access_page;
    case FIELD_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS: return (u64)c->descriptor;
    case FIELD_VM_ENTRY_MSR_LOAD_ADDRESS: return (u64)c->msr_areas;
    case FIELD_VM_EXIT_MSR_STORE_ADDRESS: return (u64)c->msr_areas + MSR_AREA;
    case FIELD_VM_EXIT_MSR_LOAD_ADDRESS: return (u64)c->msr_areas + 2ul * MSR_AREA;
  }
  return 0;
}

/* Whether a field that comes with a control is there; writing one that is not is an error that some
 * machines log at length. */
static int exists(u32 field) {
  switch (field) {
    case FIELD_VIRTUAL_APIC_ADDRESS:
    case FIELD_TPR_THRESHOLD: return capability.primary_allowed >> 21 & 1;
    case FIELD_MSR_BITMAP_ADDRESS: return capability.primary_allowed >> 28 & 1;
    case FIELD_SECONDARY_PROCESSOR_BASED_CONTROLS: return capability.primary_allowed >> 31;
    case FIELD_TERTIARY_PROCESSOR_BASED_CONTROLS: return capability.primary_allowed >> 17 & 1;
    case FIELD_APIC_ACCESS_ADDRESS: return capability.secondary_allowed & 1;
    case FIELD_GUEST_INTERRUPT_STATUS:
    case FIELD_EOI_EXIT_BITMAP_0:
    case FIELD_EOI_EXIT_BITMAP_0 + 2:
    case FIELD_EOI_EXIT_BITMAP_0 + 4:
    case FIELD_EOI_EXIT_BITMAP_0 + 6: return capability.secondary_allowed >> 9 & 1;
    case FIELD_POSTED_INTERRUPT_NOTIFICATION_VECTOR:
    case FIELD_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS: return capability.pin_allowed >> 7 & 1;
  }
  return 1;
}

static void write_controls(const struct cpu *c) {
  static const u16 zero[] = {
      FIELD_SECONDARY_PROCESSOR_BASED_CONTROLS, FIELD_EXCEPTION_BITMAP,
      FIELD_PAGE_FAULT_ERROR_CODE_MASK,         FIELD_PAGE_FAULT_ERROR_CODE_MATCH,
      FIELD_CR3_TARGET_COUNT,                   FIELD_VM_EXIT_MSR_STORE_COUNT,
      FIELD_VM_EXIT_MSR_LOAD_COUNT,             FIELD_VM_ENTRY_MSR_LOAD_COUNT,
      FIELD_VM_ENTRY_INTERRUPTION_INFORMATION,  FIELD_TPR_THRESHOLD,
      FIELD_GUEST_INTERRUPT_STATUS,             FIELD_EOI_EXIT_BITMAP_0,
      FIELD_EOI_EXIT_BITMAP_0 + 2,              FIELD_EOI_EXIT_BITMAP_0 + 4,
      FIELD_EOI_EXIT_BITMAP_0 + 6};
  static const u16 addresses[] = {FIELD_VIRTUAL_APIC_ADDRESS, FIELD_MSR_BITMAP_ADDRESS,
                                  FIELD_APIC_ACCESS_ADDRESS,
                                  FIELD_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS,
                                  FIELD_VM_ENTRY_MSR_LOAD_ADDRESS, FIELD_VM_EXIT_MSR_STORE_ADDRESS,
                                  FIELD_VM_EXIT_MSR_LOAD_ADDRESS};
  for (u32 i = 0; i < sizeof(zero) / sizeof(zero[0]); i++)
    if (exists(zero[i])) vmwrite(zero[i], 0);
  for (u32 i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++)
    if (exists(addresses[i])) vmwrite(addresses[i], own_page(c, addresses[i]));
  vmwrite(FIELD_PIN_BASED_CONTROLS, capability.pin);
  vmwrite(FIELD_PRIMARY_PROCESSOR_BASED_CONTROLS, capability.primary);
  vmwrite(FIELD_VM_EXIT_CONTROLS, capability.exit | EXIT_HOST_ADDRESS_SPACE_SIZE);
  vmwrite(FIELD_VM_ENTRY_CONTROLS, capability.entry | ENTRY_IA_32E_MODE_GUEST);
}

static u32 must_be_one(u32 field) {
  switch (field) {
    case FIELD_PIN_BASED_CONTROLS: return capability.pin;
    case FIELD_PRIMARY_PROCESSOR_BASED_CONTROLS: return capability.primary;
    case FIELD_VM_EXIT_CONTROLS: return capability.exit | EXIT_HOST_ADDRESS_SPACE_SIZE;
    case FIELD_VM_ENTRY_CONTROLS: return capability.entry | ENTRY_IA_32E_MODE_GUEST;
  }
  return 0;
}

/* The guard against guests that do not return, where the case leaves the timer free. */
static void arm_guard(void) {
  u32 timer = PIN_ACTIVATE_VMX_PREEMPTION_TIMER;
  u64 pin = vmread(FIELD_PIN_BASED_CONTROLS);
  if (!guard_ticks || !(capability.pin_allowed & timer) || pin & timer) return;
  vmwrite(FIELD_PIN_BASED_CONTROLS, pin | timer);
  vmwrite(FIELD_VMX_PREEMPTION_TIMER_VALUE, guard_ticks >> capability.timer_rate);
}

static void write_item(struct cpu *c, u32 what, u32 how, u64 value) {
  if (what >= ITEM_ENTRY_LOAD) {
    u8 *list = c->msr_areas + (what - ITEM_ENTRY_LOAD) / 0x100 * MSR_AREA;
    u64 *entry = (u64 *)(list + 16 * (what & 0x3f));
    entry[0] = how;
    entry[1] = value;
    return;
  }
  if (what >= ITEM_PID) {
    ((u64 *)c->descriptor)[what & 7] = value;
    return;
  }
  switch (how & 0xff) {
    case HOW_CONTROL: value |= must_be_one(what); break;
    case HOW_FLIP: value = vmread(what) ^ 1ul << value; break;
    case HOW_OWN: value += own_page(c, what); break;
    case HOW_OF_VCPU: value += own_page(&cpus[(how >> 8) % MAX_CPUS], what); break;
    case HOW_STALE:
      value += (u64)stale_page;
      c->shared_pages = 1;
      break;
    case HOW_APIC_ACCESS:
      value += (u64)apic_access_page;
      c->shared_pages = 1;
      break;
    case HOW_LOW_BYTE: value |= vmread(what) & ~0xfful; break;
    case HOW_HIGH_BYTE: value = value << 8 | (vmread(what) & 0xff); break;
    case HOW_BEYOND: value = own_page(c, what) | capability.beyond; break;
  }
  if (exists(what)) vmwrite(what, value);
}

int vmm_prepare(struct cpu *c, const struct wire_case *record, const struct wire_vcpu *b) {
  const struct wire_item *items = (const struct wire_item *)(b + 1);
  const struct wire_word *words = (const struct wire_word *)(items + b->items);
  const struct wire_vcpu *before = c->block;
  c->record = record;
  c->block = b;
  c->ops = (const struct wire_op *)((const struct wire_range *)(words + b->words) + b->ranges);
  c->log = c->log_base;
  c->log_end = c->log_base + LOG_ROOM;
  c->log_value = log_value;
  c->deliveries = 0;
  c->shared_pages = 0;
  if (!guest_emit(c)) return 0;
  pages_set(c, before, b);
  if (record->level != LEVEL_VMX) return 1;
  fill32(c->descriptor, 0, 16);
  asm volatile("vmclear %0; vmptrld %0" ::"m"(c->vmcs) : "cc", "memory");
  if (!before) write_host_state(c);
  if (!before || vmread(FIELD_GUEST_SELECTOR + 2) != segment_selector(c, 1)) write_segments(c);
  write_guest_state(c);
  write_controls(c);
  for (u32 i = 0; i < b->items; i++) write_item(c, items[i].what, items[i].how, items[i].value);
  arm_guard();
  return 1;
}

/* What RDMSR gives in root operation, for each RDMSR of the main stream. */
static void note_physical_values(struct cpu *c) {
  for (u32 i = 0; i < c->block->ops; i++) {
    struct wire_event *event;
    u64 value, fault;
    if (c->ops[i].op != OP_RDMSR) continue;
    fault = try_rdmsr(c->ops[i].arg, &value);
    event = log_event(c, EVENT_PHYSICAL, c->ops[i].slot, sizeof(*event));
    event->a = value;
    event->b = fault;
  }
}

static void set_guest_interrupt_flag(u64 value) {
  u64 flags = vmread(FIELD_GUEST_RFLAGS) & ~(u64)RFLAGS_IF;
  vmwrite(FIELD_GUEST_RFLAGS, flags | (value ? RFLAGS_IF : 0));
}

static void perform(struct cpu *c, const struct wire_op *op) {
  switch (op->op) {
    case OP_ITEM:
      write_item(c, op->arg, op->flags, op->value);
      arm_guard();
      break;
    case OP_WORD: ((u32 *)c->page)[op->arg % PAGE / 4] = (u32)op->value; break;
    case OP_BITMAP_CLEAR:
      bitmap_clear(c);
      c->bitmap_rewritten = 1;
      break;
    case OP_BITMAP_SET: bitmap_set(c, (u32)op->value, (u32)(op->value >> 32), op->arg, 1); break;
    case OP_RAISE: apic_raise((u8)op->arg); break;
    case OP_INTERRUPT_FLAG: set_guest_interrupt_flag(op->value); break;
    case OP_PID_BIT_VMM: {
      u8 *word = cpus[op->arg % MAX_CPUS].descriptor + (u32)op->value / 32 % 16 * 4;
      asm volatile("lock orl %1, %0" : "+m"(*(u32 *)word) : "r"(1u << (u32)op->value % 32));
      break;
    }
    case OP_DONE: log_event(c, EVENT_PERFORMED, op->slot, sizeof(struct wire_event)); break;
  }
}

/* Performs the VMM operations that stand before operation `next`; returns what then is next. */
static u32 perform_from(struct cpu *c, u32 next) {
  while (next < c->block->ops && is_vmm(&c->ops[next])) perform(c, &c->ops[next++]);
  return next;
}

static u32 first_op_from_slot(const struct cpu *c, u32 slot) {
  u32 i = 0;
  while (i < c->block->ops && c->ops[i].slot < slot) i++;
  return i;
}

/* The operation behind the one that an exit belongs to: at a boundary the saved RIP points to it, a
 * fault-like exit of an instruction points to the instruction itself. */
static u32 op_after_exit(const struct cpu *c, u32 reason, struct position p) {
  int fault_like = reason == REASON_CPUID || reason == REASON_HLT || reason == REASON_VMCALL ||
                   reason == REASON_CONTROL_REGISTER_ACCESS || reason == REASON_RDMSR ||
                   reason == REASON_WRMSR;
  u32 i = first_op_from_slot(c, p.slot);
  if (fault_like || p.at & AT_INSIDE) return first_op_from_slot(c, p.slot + 1u);
  while (i > 0 && is_vmm(&c->ops[i - 1])) i--; /* VMM steps stand between the two guest steps */
  return i;
}

static void log_exit(struct cpu *c, u32 reason, struct position p) {
  struct wire_exit *e = log_event(c, EVENT_EXIT, p.slot, sizeof(*e));
  e->at = p.at;
  e->reason = reason;
  e->qualification = vmread(FIELD_EXIT_QUALIFICATION);
  e->interruption = (u32)vmread(FIELD_VM_EXIT_INTERRUPTION_INFORMATION);
  e->vectoring = (u32)vmread(FIELD_IDT_VECTORING_INFORMATION);
  e->length = (u32)vmread(FIELD_VM_EXIT_INSTRUCTION_LENGTH);
  e->error_code = (u32)vmread(FIELD_VM_EXIT_INTERRUPTION_ERROR_CODE);
  e->blocking = (u16)vmread(FIELD_GUEST_INTERRUPTIBILITY_STATE);
  e->activity = (u16)vmread(FIELD_GUEST_ACTIVITY_STATE);
  e->reserved = 0;
  e->rax = c->rax;
  e->rcx = c->rcx;
  e->rdx = c->rdx;
}

static void take_external_interrupt(void) {
  if (vmread(FIELD_VM_EXIT_CONTROLS) & EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT)
    apic_eoi();
  else
    apic_drain();
}

/* Follows from the reason alone; 0 where the case ends. */
static int react(u32 reason) {
  u64 rip = vmread(FIELD_GUEST_RIP), primary;
  switch (reason) {
    case REASON_CPUID:
    case REASON_HLT:
    case REASON_VMCALL:
    case REASON_CONTROL_REGISTER_ACCESS:
    case REASON_RDMSR:
    case REASON_WRMSR:
      vmwrite(FIELD_GUEST_RIP, rip + vmread(FIELD_VM_EXIT_INSTRUCTION_LENGTH));
      vmwrite(FIELD_GUEST_INTERRUPTIBILITY_STATE, vmread(FIELD_GUEST_INTERRUPTIBILITY_STATE) & ~3ul);
      return 1;
    case REASON_VIRTUALIZED_EOI:
    case REASON_APIC_WRITE: return 1;
    case REASON_TPR_BELOW_THRESHOLD: vmwrite(FIELD_TPR_THRESHOLD, 0); return 1;
    case REASON_INTERRUPT_WINDOW:
      primary = vmread(FIELD_PRIMARY_PROCESSOR_BASED_CONTROLS);
      vmwrite(FIELD_PRIMARY_PROCESSOR_BASED_CONTROLS,
              primary & ~(u64)PRIMARY_INTERRUPT_WINDOW_EXITING);
      return 1;
    case REASON_EXTERNAL_INTERRUPT: take_external_interrupt(); return 1;
  }
  return 0;
}

static void log_entry(struct cpu *c, u64 how) {
  struct wire_event *event = log_event(c, EVENT_ENTRY, 0, sizeof(*event));
  event->a = how;
  event->b = how == 2 ? vmread(FIELD_VM_INSTRUCTION_ERROR) : 0;
}

static void enter_and_exit(struct cpu *c) {
  u32 next = perform_from(c, 0);
  c->r12 = SELECTOR_DATA;
  c->r15 = (u64)c;
  for (int exits = 0; exits < MAX_EXITS; exits++) {
    int failed = vm_enter(c, exits > 0);
    u32 reason, after;
    struct position p;
    if (failed) {
      log_entry(c, (u64)failed);
      return;
    }
    reason = (u32)vmread(FIELD_EXIT_REASON);
    p = guest_locate(c, vmread(FIELD_GUEST_RIP), c->r14);
    log_exit(c, reason, p);
    if (reason == REASON_VMCALL && p.at & AT_END && p.slot == c->layout.steps) return;
    if (p.at & (AT_OTHER | AT_HANDLER) || p.slot > c->layout.steps) {
      if (!react(reason)) return;
      continue;
    }
    after = op_after_exit(c, reason, p);
    if (after >= c->block->ops || !react(reason)) return;
    next = perform_from(c, after > next ? after : next);
  }
}

void vmm_run(struct cpu *c) {
  c->status = c->activity = c->blocking = 0;
  note_physical_values(c);
  if (c->record->level != LEVEL_VMX) {
    guest_run_in_root(c);
    return;
  }
  enter_and_exit(c);
  if (exists(FIELD_GUEST_INTERRUPT_STATUS)) c->status = (u32)vmread(FIELD_GUEST_INTERRUPT_STATUS);
  c->activity = (u16)vmread(FIELD_GUEST_ACTIVITY_STATE);
  c->blocking = (u16)vmread(FIELD_GUEST_INTERRUPTIBILITY_STATE);
}
