/* VM entries. SDM: chapter "VM Entries". */
#include "machine.h"

#define SPEAKS_OF_APIC(msr) ((msr) >> 8 == 8)

static bool beyond_width(u64 address) { return address >> PHYSICAL_ADDRESS_WIDTH; }

static bool is_page(u64 address) { return !(address & 0xfff) && !beyond_width(address); }

static bool allowed(u64 value, u64 must, u64 may) { return (value & must) == must && !(value & ~may); }

/* The controls with those that are not activated as 0. */
struct active {
  u32 pin, primary, secondary;
  u64 tertiary;
};

static struct active active(const u64 *v) {
  u32 primary = (u32)v[PRIMARY_CONTROLS];
  return (struct active){
      .pin = (u32)v[PIN_CONTROLS],
      .primary = primary,
      .secondary = primary & PRIMARY_SECONDARY ? (u32)v[SECONDARY_CONTROLS] : 0,
      .tertiary = primary & PRIMARY_TERTIARY ? v[TERTIARY_CONTROLS] : 0,
  };
}

static bool reserved_controls_right(const u64 *v, struct active a) {
  return allowed(a.pin, PIN_MUST, PIN_MAY) && allowed(a.primary, PRIMARY_MUST, PRIMARY_MAY) &&
         allowed(a.secondary, 0, SECONDARY_MAY) && allowed(a.tertiary, 0, TERTIARY_MAY) &&
         allowed(v[EXIT_CONTROLS], EXIT_MUST, EXIT_MAY) && allowed(v[ENTRY_CONTROLS], ENTRY_MUST, ENTRY_MAY);
}

/* What "use TPR shadow" wants, and what wants it. */
static bool tpr_shadow_right(const u64 *v, struct active a) {
  u64 threshold = v[TPR_THRESHOLD];
  if (!(a.primary & PRIMARY_TPR_SHADOW))
    return !(a.secondary & (SECONDARY_X2APIC_MODE | SECONDARY_REGISTERS | SECONDARY_DELIVERY)) &&
           !(a.tertiary & TERTIARY_IPI);
  if (!is_page(v[VIRTUAL_APIC_ADDRESS])) return false;
  if (a.secondary & SECONDARY_DELIVERY) return true;
  if (threshold >> 4) return false;
  return a.secondary & SECONDARY_APIC_ACCESSES ||
         threshold <= (load32(v[VIRTUAL_APIC_ADDRESS] + VTPR) >> 4 & 0xf);
}

static bool posted_interrupts_right(const u64 *v, struct active a) {
  if (!(a.pin & PIN_POSTED_INTERRUPTS)) return true;
  return a.secondary & SECONDARY_DELIVERY && v[EXIT_CONTROLS] & EXIT_ACKNOWLEDGE &&
         v[NOTIFICATION_VECTOR] < 256 && !(v[DESCRIPTOR_ADDRESS] & 0x3f) &&
         !beyond_width(v[DESCRIPTOR_ADDRESS]);
}

static bool pid_pointer_table_right(const u64 *v, struct active a) {
  u64 table = v[PID_POINTER_TABLE_ADDRESS];
  if (!(a.tertiary & TERTIARY_IPI)) return true;
  return !(table & 7) && !beyond_width(table) && !beyond_width(table + 8 * v[LAST_PID_POINTER_INDEX]);
}

static bool msr_area_right(u64 count, u64 address) {
  return !count || (!(address & 0xf) && !beyond_width(address) && !beyond_width(address + 16 * count - 1));
}

/* "VM-Entry Control Fields": event injection */
static bool injection_right(const u64 *v) {
  u32 information = (u32)v[ENTRY_INTERRUPTION_INFORMATION], type = information >> 8 & 7,
      vector = information & 0xff;
  bool error_code = vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
  if (!(information & EVENT_VALID)) return true;
  if (information & 0x7ffff000 || type == 1 || type == OTHER_EVENT) return false;
  if (type == NMI && vector != 2) return false;
  if (type == HARDWARE_EXCEPTION && vector > 31) return false;
  return !(information & EVENT_ERROR_CODE) == !(type == HARDWARE_EXCEPTION && error_code);
}

/* "Checks on VMX Controls". All of them give error 7. */
static bool controls_right(const u64 *v) {
  struct active a = active(v);
  u32 secondary = a.secondary;
  if (!reserved_controls_right(v, a)) return false;
  if (a.primary & PRIMARY_MSR_BITMAPS && !is_page(v[MSR_BITMAP_ADDRESS])) return false;
  if (secondary & SECONDARY_APIC_ACCESSES && !is_page(v[APIC_ACCESS_ADDRESS])) return false;
  if (secondary & SECONDARY_X2APIC_MODE && secondary & SECONDARY_APIC_ACCESSES) return false;
  if (secondary & SECONDARY_DELIVERY && !(a.pin & PIN_EXTERNAL_INTERRUPT_EXITING)) return false;
  return tpr_shadow_right(v, a) && posted_interrupts_right(v, a) && pid_pointer_table_right(v, a) &&
         msr_area_right(v[EXIT_STORE_COUNT], v[EXIT_STORE_ADDRESS]) &&
         msr_area_right(v[EXIT_LOAD_COUNT], v[EXIT_LOAD_ADDRESS]) &&
         msr_area_right(v[ENTRY_LOAD_COUNT], v[ENTRY_LOAD_ADDRESS]) && injection_right(v) &&
         v[EXIT_CONTROLS] & EXIT_HOST_64 && v[ENTRY_CONTROLS] & ENTRY_IA32E;
}

static bool activity_right(const struct cpu *c, bool injects, u32 type, u32 vector) {
  u64 activity = c->vmcs[ACTIVITY];
  bool machine_check = type == HARDWARE_EXCEPTION && vector == 18;
  if (activity == ACTIVE) return true;
  if (activity > WAIT_FOR_SIPI) return false;
  if (activity == HALTED && c->cpl != 0) return false;
  if (c->vmcs[INTERRUPTIBILITY] & (BLOCKING_STI | BLOCKING_MOV_SS)) return false;
  if (!injects) return true;
  if (activity == WAIT_FOR_SIPI) return false;
  if (activity == SHUTDOWN) return type == NMI || machine_check;
  return type == EXTERNAL_INTERRUPT || type == NMI || machine_check ||
         (type == HARDWARE_EXCEPTION && vector == 1);
}

/* "Checks on Guest Non-Register State" */
static bool guest_state_right(const struct cpu *c) {
  u64 blocking = c->vmcs[INTERRUPTIBILITY], pending = c->vmcs[PENDING_DEBUG];
  u32 information = (u32)c->vmcs[ENTRY_INTERRUPTION_INFORMATION], type = information >> 8 & 7;
  bool injects = information & EVENT_VALID, shadow = blocking & (BLOCKING_STI | BLOCKING_MOV_SS);
  bool steps = c->trap_flag && !(c->vmcs[DEBUGCTL] & 2);
  if (!activity_right(c, injects, type, information & 0xff)) return false;
  if (blocking & ~0xbull || (blocking & 3) == 3) return false;
  if (blocking & BLOCKING_STI && !c->interrupt_flag) return false;
  if (injects && type == EXTERNAL_INTERRUPT && (shadow || !c->interrupt_flag)) return false;
  if (injects && type == NMI && blocking & BLOCKING_MOV_SS) return false;
  if (pending & ~0x1500full) return false;
  if (shadow || c->vmcs[ACTIVITY] == HALTED) return steps == !!(pending & PENDING_BS);
  return true;
}

static void load_guest(struct cpu *c) {
  struct active a = active(c->vmcs);
  c->pin = a.pin;
  c->primary = a.primary;
  c->secondary = a.secondary;
  c->tertiary = a.tertiary;
  c->exit_controls = (u32)c->vmcs[EXIT_CONTROLS];
  c->blocking = (u8)c->vmcs[INTERRUPTIBILITY];
  c->activity = (u8)c->vmcs[ACTIVITY];
  c->pending_debug = c->vmcs[PENDING_DEBUG];
  c->fresh_blocking = false;
  c->rvi = (u8)c->vmcs[INTERRUPT_STATUS];
  c->svi = (u8)(c->vmcs[INTERRUPT_STATUS] >> 8);
  c->recognized = c->threshold_due = false;
}

/* "Loading MSRs": the number of the entry that cannot be loaded, or 0. */
static u64 load_msrs(struct cpu *c) {
  for (u64 i = 0; i < c->vmcs[ENTRY_LOAD_COUNT]; i++) {
    u64 at = c->vmcs[ENTRY_LOAD_ADDRESS] + 16 * i;
    u32 msr = load32(at);
    if (load32(at + 4) || SPEAKS_OF_APIC(msr) || !write_msr(c, msr, load64(at + 8))) return i + 1;
  }
  return 0;
}

static struct x2a_outcome failure(enum reason reason, u64 qualification) {
  return (struct x2a_outcome){.kind = X2A_ENTRY_FAILURE, .value = reason, .qualification = qualification};
}

/* The virtual APIC at VM entry. SDM: "VM Entries and Pending Virtual Interrupts" and the exits that the
 * TPR threshold induces. */
static void virtual_apic_at_entry(struct cpu *c) {
  u64 page = c->vmcs[VIRTUAL_APIC_ADDRESS];
  if (has_delivery(c)) {
    ppr_virtualization(c);
    evaluate(c);
  } else if (c->primary & PRIMARY_TPR_SHADOW && c->secondary & SECONDARY_APIC_ACCESSES) {
    c->threshold_due = (c->vmcs[TPR_THRESHOLD] & 0xf) > (load32(page + VTPR) >> 4 & 0xf);
  }
}

static void inject(struct cpu *c) {
  u32 information = (u32)c->vmcs[ENTRY_INTERRUPTION_INFORMATION];
  if (!(information & EVENT_VALID)) return;
  c->blocking &= (u8) ~(BLOCKING_STI | BLOCKING_MOV_SS);
  deliver(c, (u8)information);
}

struct x2a_outcome vm_entry(struct cpu *c) {
  u64 entry;
  if (!controls_right(c->vmcs)) return (struct x2a_outcome){.kind = X2A_VMFAIL_VALID, .value = 7};
  if (!guest_state_right(c)) return failure(REASON_GUEST_STATE, 0);
  c->non_root = true;
  entry = load_msrs(c);
  if (entry) {
    c->non_root = false;
    return failure(REASON_MSR_LOADING, entry);
  }
  load_guest(c);
  virtual_apic_at_entry(c);
  inject(c);
  return (struct x2a_outcome){.kind = X2A_ENTERED};
}
