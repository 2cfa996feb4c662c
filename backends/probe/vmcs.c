#include "vmcs.h"
#include "descriptor.h"
#include "fields.h"
#include "machine.h"
#include "page.h"
#include "vmx.h"

#define ACCESS_CODE 0xa09b
#define ACCESS_DATA 0xc093
#define ACCESS_USER_CODE 0xa0fb
#define ACCESS_USER_DATA 0xc0f3
#define ACCESS_TSS 0x8b
#define ACCESS_UNUSABLE 0x10000
#define MSR_AREA 1024 /* bytes for each of the three lists */

u64 guard_ticks;
extern u8 vm_exit[];

static struct {
  u32 pin, primary, exit, entry; /* bits that must be 1 */
  u32 pin_allowed, primary_allowed, secondary_allowed, timer_rate;
  u64 tertiary_allowed;
  u64 beyond; /* the first bit beyond the physical-address width */
} capability;

void vmcs_init(void) {
  int true_controls = rdmsr(MSR_VMX_BASIC) >> 55 & 1;
  u64 primary, secondary, pin = rdmsr(true_controls ? MSR_VMX_TRUE_PINBASED_CTLS : MSR_VMX_PINBASED_CTLS);
  capability.pin = (u32)pin;
  capability.pin_allowed = (u32)(pin >> 32);
  primary = rdmsr(true_controls ? MSR_VMX_TRUE_PROCBASED_CTLS : MSR_VMX_PROCBASED_CTLS);
  capability.primary = (u32)primary;
  capability.primary_allowed = (u32)(primary >> 32);
  if (!try_rdmsr(MSR_VMX_PROCBASED_CTLS2, &secondary)) capability.secondary_allowed = (u32)(secondary >> 32);
  (void)try_rdmsr(MSR_VMX_PROCBASED_CTLS3, &capability.tertiary_allowed);
  capability.exit = (u32)rdmsr(true_controls ? MSR_VMX_TRUE_EXIT_CTLS : MSR_VMX_EXIT_CTLS);
  capability.entry = (u32)rdmsr(true_controls ? MSR_VMX_TRUE_ENTRY_CTLS : MSR_VMX_ENTRY_CTLS);
  capability.timer_rate = rdmsr(MSR_VMX_MISC) & 31;
  capability.beyond = 1ul << (cpuid(0x80000008).eax & 0xff);
}

static void write_host_state(const struct cpu *c) {
  u64 cr0, cr3, cr4;
  asm volatile("mov %%cr0, %0; mov %%cr3, %1; mov %%cr4, %2" : "=r"(cr0), "=r"(cr3), "=r"(cr4));
  for (u32 i = 0; i < 6; i++)
    field_base(c, FIELD_HOST_SELECTOR + 2 * i, i == 1 ? SELECTOR_CODE : SELECTOR_DATA);
  field_base(c, FIELD_HOST_SELECTOR + 12, SELECTOR_TSS);
  field_base(c, FIELD_HOST_CR0, cr0);
  field_base(c, FIELD_HOST_CR3, cr3);
  field_base(c, FIELD_HOST_CR4, cr4);
  field_base(c, FIELD_HOST_FS_BASE, 0);
  field_base(c, FIELD_HOST_GS_BASE, (u64)c);
  field_base(c, FIELD_HOST_TR_BASE, (u64)c->tss);
  field_base(c, FIELD_HOST_GDTR_BASE, (u64)c->gdt);
  field_base(c, FIELD_HOST_IDTR_BASE, (u64)host_idt);
  field_base(c, FIELD_HOST_RIP, (u64)vm_exit);
  field_base(c, FIELD_HOST_SYSENTER_CS, 0);
  field_base(c, FIELD_HOST_SYSENTER_ESP, 0);
  field_base(c, FIELD_HOST_SYSENTER_EIP, 0);
  field_base(c, FIELD_GUEST_CR0, cr0);
  field_base(c, FIELD_GUEST_CR3, cr3);
  field_base(c, FIELD_GUEST_CR4, cr4);
  field_base(c, FIELD_CR0_MASK, 0);
  field_base(c, FIELD_CR4_MASK, 0);
  field_base(c, FIELD_CR0_SHADOW, 0);
  field_base(c, FIELD_CR4_SHADOW, 0);
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
    field_base(c, FIELD_GUEST_SELECTOR + 2 * i, segment_selector(c, i));
    field_base(c, FIELD_GUEST_ACCESS_RIGHTS + 2 * i, segment_rights(c, i));
    field_base(c, FIELD_GUEST_LIMIT + 2 * i, i == 7 ? 0x67 : i == 6 ? 0 : 0xffffffff);
    field_base(c, FIELD_GUEST_BASE + 2 * i, i == 5 ? (u64)c : i == 7 ? (u64)c->tss : 0);
  }
  field_base(c, FIELD_GUEST_LIMIT + 16, sizeof(c->gdt) - 1);
  field_base(c, FIELD_GUEST_BASE + 16, (u64)c->gdt);
  field_base(c, FIELD_GUEST_LIMIT + 18, PAGE - 1);
  field_base(c, FIELD_GUEST_BASE + 18, (u64)guest_idt);
  field_base(c, FIELD_GUEST_DR7, 0x400);
  field_base(c, FIELD_GUEST_SYSENTER_CS, 0);
  field_base(c, FIELD_GUEST_SYSENTER_ESP, 0);
  field_base(c, FIELD_GUEST_SYSENTER_EIP, 0);
  field_base(c, FIELD_VMCS_LINK_POINTER, ~0ul);
}

static void write_guest_state(const struct cpu *c) {
  u8 guest = c->block->guest;
  field_base(c, FIELD_GUEST_RSP, (u64)c->stack + STACK_ROOM);
  field_base(c, FIELD_GUEST_RIP, (u64)c->layout.base);
  field_base(c, FIELD_GUEST_RFLAGS,
             2u | (guest & GUEST_IF ? RFLAGS_IF : 0) | (guest & GUEST_TF ? RFLAGS_TF : 0));
  field_base(c, FIELD_GUEST_INTERRUPTIBILITY_STATE, 0);
  field_base(c, FIELD_GUEST_ACTIVITY_STATE, 0);
  field_base(c, FIELD_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
  field_base(c, FIELD_IA32_DEBUGCTL, 0);
  if (vmcs_has(FIELD_GUEST_INTERRUPT_STATUS)) field_base(c, FIELD_GUEST_INTERRUPT_STATUS, 0);
}

/* The address that belongs into a field on this processor. */
static u64 own_page(const struct cpu *c, u32 field) {
  switch (field) {
    case FIELD_VIRTUAL_APIC_ADDRESS: return (u64)c->page;
    case FIELD_MSR_BITMAP_ADDRESS: return (u64)c->bitmap;
    case FIELD_APIC_ACCESS_ADDRESS: return (u64)apic_access_page;
    case FIELD_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS: return (u64)c->descriptor;
    case FIELD_PID_POINTER_TABLE_ADDRESS: return (u64)pid_pointers;
    case FIELD_VM_ENTRY_MSR_LOAD_ADDRESS: return (u64)c->msr_areas;
    case FIELD_VM_EXIT_MSR_STORE_ADDRESS: return (u64)c->msr_areas + MSR_AREA;
    case FIELD_VM_EXIT_MSR_LOAD_ADDRESS: return (u64)c->msr_areas + 2ul * MSR_AREA;
  }
  return 0;
}

int vmcs_has(u32 field) {
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
    case FIELD_PID_POINTER_TABLE_ADDRESS:
    case FIELD_LAST_PID_POINTER_INDEX: return capability.tertiary_allowed >> 4 & 1;
  }
  return 1;
}

static void write_controls(const struct cpu *c) {
  static const u16 zero[] = {FIELD_SECONDARY_PROCESSOR_BASED_CONTROLS,
                             FIELD_TERTIARY_PROCESSOR_BASED_CONTROLS,
                             FIELD_EXCEPTION_BITMAP,
                             FIELD_PAGE_FAULT_ERROR_CODE_MASK,
                             FIELD_PAGE_FAULT_ERROR_CODE_MATCH,
                             FIELD_CR3_TARGET_COUNT,
                             FIELD_VM_EXIT_MSR_STORE_COUNT,
                             FIELD_VM_EXIT_MSR_LOAD_COUNT,
                             FIELD_VM_ENTRY_MSR_LOAD_COUNT,
                             FIELD_VM_ENTRY_INTERRUPTION_INFORMATION,
                             FIELD_TPR_THRESHOLD,
                             FIELD_EOI_EXIT_BITMAP_0,
                             FIELD_EOI_EXIT_BITMAP_0 + 2,
                             FIELD_EOI_EXIT_BITMAP_0 + 4,
                             FIELD_EOI_EXIT_BITMAP_0 + 6};
  static const u16 addresses[] = {FIELD_VIRTUAL_APIC_ADDRESS,      FIELD_MSR_BITMAP_ADDRESS,
                                  FIELD_APIC_ACCESS_ADDRESS,       FIELD_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS,
                                  FIELD_PID_POINTER_TABLE_ADDRESS, FIELD_VM_ENTRY_MSR_LOAD_ADDRESS,
                                  FIELD_VM_EXIT_MSR_STORE_ADDRESS, FIELD_VM_EXIT_MSR_LOAD_ADDRESS};
  for (u32 i = 0; i < sizeof(zero) / sizeof(zero[0]); i++)
    if (vmcs_has(zero[i])) field_base(c, zero[i], 0);
  for (u32 i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++)
    if (vmcs_has(addresses[i])) field_base(c, addresses[i], own_page(c, addresses[i]));
  field_base(c, FIELD_PIN_BASED_CONTROLS, capability.pin);
  field_base(c, FIELD_PRIMARY_PROCESSOR_BASED_CONTROLS, capability.primary);
  field_base(c, FIELD_VM_EXIT_CONTROLS, capability.exit | EXIT_HOST_ADDRESS_SPACE_SIZE);
  field_base(c, FIELD_VM_ENTRY_CONTROLS, capability.entry | ENTRY_IA_32E_MODE_GUEST);
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
void vmcs_arm_guard(const struct cpu *c) {
  u32 timer = PIN_ACTIVATE_VMX_PREEMPTION_TIMER;
  u64 pin = field_get(c, FIELD_PIN_BASED_CONTROLS);
  if (!guard_ticks || !(capability.pin_allowed & timer) || pin & timer) return;
  field_set(c, FIELD_PIN_BASED_CONTROLS, pin | timer);
  field_set(c, FIELD_VMX_PREEMPTION_TIMER_VALUE, guard_ticks >> capability.timer_rate);
}

void vmcs_write_item(struct cpu *c, u32 what, u32 how, u64 value) {
  if (what >= ITEM_ENTRY_LOAD) {
    u8 *list = c->msr_areas + (what - ITEM_ENTRY_LOAD) / 0x100 * MSR_AREA;
    u64 *entry = (u64 *)(list + 16 * (what & 0x3f));
    entry[0] = how;
    entry[1] = value;
    return;
  }
  if (what >= ITEM_PID) {
    descriptor_write_item(c, what, how, value);
    return;
  }
  switch (how & 0xff) {
    case HOW_CONTROL: value |= must_be_one(what); break;
    case HOW_FLIP: value = field_get(c, what) ^ 1ul << value; break;
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
    case HOW_LOW_BYTE: value |= field_get(c, what) & ~0xfful; break;
    case HOW_HIGH_BYTE: value = value << 8 | (field_get(c, what) & 0xff); break;
    case HOW_BEYOND: value = own_page(c, what) | capability.beyond; break;
  }
  if (vmcs_has(what)) field_set(c, what, value);
}

void vmcs_prepare(struct cpu *c) {
  if (!c->vmcs_written) {
    asm volatile("vmclear %0; vmptrld %0" ::"m"(c->vmcs) : "cc", "memory");
    write_host_state(c);
    write_controls(c);
  }
  fields_restore(c);
  descriptor_prepare(c);
  if (!c->vmcs_written || (c->cpl3 & 3 && field_get(c, FIELD_GUEST_SELECTOR + 2) != segment_selector(c, 1)))
    write_segments(c);
  write_guest_state(c);
  if (vmcs_has(FIELD_LAST_PID_POINTER_INDEX))
    field_base(c, FIELD_LAST_PID_POINTER_INDEX, c->record->vcpus - 1u);
  c->vmcs_written = 1;
}
