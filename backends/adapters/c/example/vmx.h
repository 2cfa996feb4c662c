/* Numbers of the SDM: VMCS fields, controls, capability MSRs, exit reasons. */
#ifndef VMX_H
#define VMX_H

#include <stdint.h>

/* Appendix "Field Encoding in VMCS". */
#define VMCS_FIELDS(F)                                                                                       \
  F(NOTIFICATION_VECTOR, 0x0002)                                                                             \
  F(LAST_PID_POINTER_INDEX, 0x0008)                                                                          \
  F(INTERRUPT_STATUS, 0x0810)                                                                                \
  F(MSR_BITMAP_ADDRESS, 0x2004)                                                                              \
  F(EXIT_STORE_ADDRESS, 0x2006)                                                                              \
  F(EXIT_LOAD_ADDRESS, 0x2008)                                                                               \
  F(ENTRY_LOAD_ADDRESS, 0x200a)                                                                              \
  F(VIRTUAL_APIC_ADDRESS, 0x2012)                                                                            \
  F(APIC_ACCESS_ADDRESS, 0x2014)                                                                             \
  F(DESCRIPTOR_ADDRESS, 0x2016)                                                                              \
  F(EOI_EXIT_BITMAP_0, 0x201c)                                                                               \
  F(EOI_EXIT_BITMAP_1, 0x201e)                                                                               \
  F(EOI_EXIT_BITMAP_2, 0x2020)                                                                               \
  F(EOI_EXIT_BITMAP_3, 0x2022)                                                                               \
  F(TERTIARY_CONTROLS, 0x2034)                                                                               \
  F(PID_POINTER_TABLE_ADDRESS, 0x2042)                                                                       \
  F(DEBUGCTL, 0x2802)                                                                                        \
  F(PIN_CONTROLS, 0x4000)                                                                                    \
  F(PRIMARY_CONTROLS, 0x4002)                                                                                \
  F(EXCEPTION_BITMAP, 0x4004)                                                                                \
  F(EXIT_CONTROLS, 0x400c)                                                                                   \
  F(EXIT_STORE_COUNT, 0x400e)                                                                                \
  F(EXIT_LOAD_COUNT, 0x4010)                                                                                 \
  F(ENTRY_CONTROLS, 0x4012)                                                                                  \
  F(ENTRY_LOAD_COUNT, 0x4014)                                                                                \
  F(ENTRY_INTERRUPTION_INFORMATION, 0x4016)                                                                  \
  F(TPR_THRESHOLD, 0x401c)                                                                                   \
  F(SECONDARY_CONTROLS, 0x401e)                                                                              \
  F(INTERRUPTIBILITY, 0x4824)                                                                                \
  F(ACTIVITY, 0x4826)                                                                                        \
  F(PENDING_DEBUG, 0x6822)

enum field {
#define NAME(name, encoding) name,
  VMCS_FIELDS(NAME)
#undef NAME
      FIELD_COUNT
};

/* VM-execution controls. */
#define PIN_EXTERNAL_INTERRUPT_EXITING (1u << 0)
#define PIN_NMI_EXITING (1u << 3)
#define PIN_POSTED_INTERRUPTS (1u << 7)
#define PRIMARY_INTERRUPT_WINDOW_EXITING (1u << 2)
#define PRIMARY_HLT_EXITING (1u << 7)
#define PRIMARY_TERTIARY (1u << 17)
#define PRIMARY_CR8_LOAD_EXITING (1u << 19)
#define PRIMARY_CR8_STORE_EXITING (1u << 20)
#define PRIMARY_TPR_SHADOW (1u << 21)
#define PRIMARY_MSR_BITMAPS (1u << 28)
#define PRIMARY_SECONDARY (1u << 31)
#define SECONDARY_APIC_ACCESSES (1u << 0)
#define SECONDARY_X2APIC_MODE (1u << 4)
#define SECONDARY_REGISTERS (1u << 8)
#define SECONDARY_DELIVERY (1u << 9)
#define TERTIARY_IPI (1u << 4)
#define EXIT_HOST_64 (1u << 9)
#define EXIT_ACKNOWLEDGE (1u << 15)
#define ENTRY_IA32E (1u << 9)

/* What the controls must and may be: the low and high halves of IA32_VMX_TRUE_*_CTLS. Only what this
 * processor really does may be 1, and the default1 class, which always may: CR3-load and CR3-store exiting and
 * the debug controls, of which no step takes notice. */
#define PIN_MUST 0x16u
#define PIN_MAY (PIN_MUST | PIN_EXTERNAL_INTERRUPT_EXITING | PIN_NMI_EXITING | PIN_POSTED_INTERRUPTS)
#define PRIMARY_MUST 0x04006172u
#define PRIMARY_DEFAULT1 0x0401e172u
#define PRIMARY_MAY                                                                                          \
  (PRIMARY_DEFAULT1 | PRIMARY_INTERRUPT_WINDOW_EXITING | PRIMARY_HLT_EXITING | PRIMARY_TERTIARY |            \
   PRIMARY_CR8_LOAD_EXITING | PRIMARY_CR8_STORE_EXITING | PRIMARY_TPR_SHADOW | PRIMARY_MSR_BITMAPS |         \
   PRIMARY_SECONDARY)
#define SECONDARY_MAY                                                                                        \
  (SECONDARY_APIC_ACCESSES | SECONDARY_X2APIC_MODE | SECONDARY_REGISTERS | SECONDARY_DELIVERY)
#define TERTIARY_MAY ((uint64_t)TERTIARY_IPI)
#define EXIT_MUST 0x00036dfbu
#define EXIT_DEFAULT1 0x00036dffu
#define EXIT_MAY (EXIT_DEFAULT1 | EXIT_HOST_64 | EXIT_ACKNOWLEDGE)
#define ENTRY_MUST 0x000011fbu
#define ENTRY_DEFAULT1 0x000011ffu
#define ENTRY_MAY (ENTRY_DEFAULT1 | ENTRY_IA32E)

#define PHYSICAL_ADDRESS_WIDTH 46

/* Appendix "Basic Exit Reasons". */
enum reason {
  REASON_EXCEPTION = 0,
  REASON_EXTERNAL_INTERRUPT = 1,
  REASON_INTERRUPT_WINDOW = 7,
  REASON_CPUID = 10,
  REASON_HLT = 12,
  REASON_VMCALL = 18,
  REASON_CONTROL_REGISTER = 28,
  REASON_RDMSR = 31,
  REASON_WRMSR = 32,
  REASON_GUEST_STATE = 33,
  REASON_MSR_LOADING = 34,
  REASON_TPR_BELOW_THRESHOLD = 43,
  REASON_VIRTUALIZED_EOI = 45,
  REASON_APIC_WRITE = 56,
};

/* Interruptibility and activity state. */
#define BLOCKING_STI 1u
#define BLOCKING_MOV_SS 2u
#define BLOCKING_SMI 4u
#define BLOCKING_NMI 8u
enum activity { ACTIVE, HALTED, SHUTDOWN, WAIT_FOR_SIPI };

#define PENDING_BS (1u << 14)

/* VM-entry and VM-exit interruption information. */
#define EVENT_VALID 0x80000000u
#define EVENT_ERROR_CODE 0x800u
enum event_type {
  EXTERNAL_INTERRUPT,
  NMI = 2,
  HARDWARE_EXCEPTION,
  SOFTWARE_INTERRUPT,
  PRIVILEGED_SOFTWARE,
  SOFTWARE_EXCEPTION,
  OTHER_EVENT
};

#define MSR_APIC_BASE 0x1bu
#define MSR_SYSENTER_CS 0x174u
#define MSR_VMX_FIRST 0x480u
#define MSR_VMX_LAST 0x492u
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_EFER 0xc0000080u

/* The local APIC's registers, by MSR number. */
enum apic_msr {
  APIC_ID = 0x802,
  APIC_VERSION = 0x803,
  APIC_TPR = 0x808,
  APIC_PPR = 0x80a,
  APIC_EOI = 0x80b,
  APIC_LDR = 0x80d,
  APIC_SVR = 0x80f,
  APIC_ISR = 0x810,
  APIC_TMR = 0x818,
  APIC_IRR = 0x820,
  APIC_ESR = 0x828,
  APIC_LVT_CMCI = 0x82f,
  APIC_ICR = 0x830,
  APIC_LVT_TIMER = 0x832,
  APIC_LVT_THERMAL = 0x833,
  APIC_LVT_PERF = 0x834,
  APIC_LVT_LINT0 = 0x835,
  APIC_LVT_LINT1 = 0x836,
  APIC_LVT_ERROR = 0x837,
  APIC_INITIAL_COUNT = 0x838,
  APIC_CURRENT_COUNT = 0x839,
  APIC_DCR = 0x83e,
  APIC_SELF_IPI = 0x83f,
};

/* Offsets in the virtual-APIC page. */
#define VTPR 0x080u
#define VPPR 0x0a0u
#define VISR 0x100u
#define VIRR 0x200u
#define PAGE_OFFSET(msr) (((msr) & 0xffu) << 4)

#endif
