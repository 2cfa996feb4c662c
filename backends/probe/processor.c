#include "processor.h"
#include "apic.h"
#include "frames.h"
#include "guest.h"
#include "machine.h"
#include "vmx.h"

u32 under_hypervisor, vmx_state;
u64 guest_idt[512] __attribute__((aligned(PAGE)));
u64 host_idt[512] __attribute__((aligned(PAGE)));
extern u8 host_stubs[];

#define CPUID_VMX (1u << 5)         /* leaf 1, ECX */
#define CPUID_XSAVE (1u << 26)      /* leaf 1, ECX */
#define CPUID_HYPERVISOR (1u << 31) /* leaf 1, ECX */
#define CPUID_AVX512F (1u << 16) /* leaf 7, EBX */
#define CR4_OSXSAVE 0x40000ul
#define XCR0_AVX512 0xe7u /* x87, SSE, AVX and the three states of AVX-512 */

static u8 vmx_pages[MAX_CPUS][7][PAGE] KEPT __attribute__((aligned(PAGE)));
static u8 code_pages[MAX_CPUS][CODE_ROOM] KEPT __attribute__((aligned(PAGE)));
static u8 logs[MAX_CPUS][LOG_ROOM + PAGE] KEPT __attribute__((aligned(PAGE)));
static u8 stacks[MAX_CPUS][2][STACK_ROOM] __attribute__((aligned(PAGE), section(".bss.kept.guest")));

void *memset(void *to, int value, size_t length) {
  void *start = to;
  asm volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(value) : "memory");
  return start;
}

void *memcpy(void *to, const void *from, size_t length) {
  void *start = to;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length)::"memory");
  return start;
}

void host_trap(struct trap_frame *f);
void host_trap(struct trap_frame *f) {
  const struct exception_entry *e;
  if (f->vector >= 16) {
    this_cpu()->taken[f->vector / 32 & 7] |= 1u << f->vector % 32;
    apic_eoi();
    return;
  }
  for (e = __exceptions_start; e < __exceptions_end; e++)
    if (f->rip == e->instruction) {
      f->rip = e->next;
      f->r8 = f->vector + 1;
      return;
    }
  fail("exception in root operation");
}

/* The stubs lie below 4 GiB, and all in the same 64 KiB. */
static void make_idt(u64 *idt, const u8 *stubs) {
  u64 first = (u64)stubs, dpl3 = (u64)3 << 45;
  u64 gate = (first & 0xffff) | (u64)SELECTOR_CODE << 16 | (u64)0x8e00 << 32 | (first >> 16) << 48;
  for (u64 *at = idt; at < idt + 512; at += 2, gate += STUB_BYTES) *at = gate;
  idt[2 * 3] |= dpl3;
}

struct __attribute__((packed)) table_register {
  u16 limit;
  u64 base;
};

void load_idt(const u64 *idt) {
  struct table_register r = {PAGE - 1, (u64)idt};
  asm volatile("lidt %0" ::"m"(r));
}

void processor_load_tables(struct cpu *c) {
  static const u64 segments[6] = {
      0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff};
  u64 tss = (u64)c->tss, rsp0 = (u64)c->user_stack + STACK_ROOM;
  struct table_register r = {sizeof(c->gdt) - 1, (u64)c->gdt};
  memcpy(c->gdt, segments, sizeof(segments));
  c->gdt[6] = 0x67 | (tss & 0xffffff) << 16 | 0x89ul << 40 | (tss >> 24 & 0xff) << 56;
  c->gdt[7] = tss >> 32;
  memcpy(&c->tss[1], &rsp0, 8);
  asm volatile("lgdt %0" ::"m"(r));
  asm volatile("ltr %w0" ::"r"(SELECTOR_TSS));
  load_idt(host_idt);
  wrmsr(MSR_GS_BASE, (u64)c);
}

/* AVX-512: an emulator compares pages with it far faster than with string instructions. Not under a
 * hypervisor: one without VT-x emulates the probe and knows none, whatever CPUID says. */
static void enable_wide_registers(void) {
  u64 cr4;
  if (under_hypervisor || !(cpuid(1).ecx & CPUID_XSAVE) || !(cpuid(7).ebx & CPUID_AVX512F)) return;
  if ((cpuid(0xd).eax & XCR0_AVX512) != XCR0_AVX512) return;
  asm volatile("mov %%cr4, %0" : "=r"(cr4));
  asm volatile("mov %0, %%cr4" ::"r"(cr4 | CR4_OSXSAVE));
  asm volatile("xsetbv" ::"c"(0), "a"(XCR0_AVX512), "d"(0));
}

int processor_has_wide_registers(void) {
  u64 cr4;
  asm volatile("mov %%cr4, %0" : "=r"(cr4)); /* an INIT clears it */
  return (cr4 & CR4_OSXSAVE) != 0;
}

static int is_locked_off(void) {
  u64 feature_control = rdmsr(MSR_FEATURE_CONTROL);
  return (feature_control & (LOCKED | VMX_OUTSIDE_SMX)) == LOCKED;
}

static int enter_root_operation(struct cpu *c) {
  u64 cr0, cr4, feature_control = rdmsr(MSR_FEATURE_CONTROL);
  u8 failed;
  if (is_locked_off()) return 0; /* the bootstrap processor's firmware did otherwise */
  if (!(feature_control & LOCKED)) wrmsr(MSR_FEATURE_CONTROL, feature_control | LOCKED | VMX_OUTSIDE_SMX);
  asm volatile("mov %%cr0, %0; mov %%cr4, %1" : "=r"(cr0), "=r"(cr4));
  cr0 = (cr0 | rdmsr(MSR_VMX_CR0_FIXED0)) & rdmsr(MSR_VMX_CR0_FIXED1);
  cr4 = (cr4 | 0x2000 | rdmsr(MSR_VMX_CR4_FIXED0)) & rdmsr(MSR_VMX_CR4_FIXED1);
  asm volatile("mov %0, %%cr0; mov %1, %%cr4" ::"r"(cr0), "r"(cr4));
  *(u32 *)c->vmxon_region = *(u32 *)c->vmcs = (u32)rdmsr(MSR_VMX_BASIC) & 0x7fffffff;
  asm volatile("vmxon %1; setbe %0" : "=r"(failed) : "m"(c->vmxon_region) : "cc", "memory");
  return !failed;
}

void processor_init(struct cpu *c, u32 index) {
  u8(*pages)[PAGE] = vmx_pages[index];
  fill32(pages, 0, sizeof(vmx_pages[0]) / 4);
  c->self = c;
  c->index = index;
  c->vmxon_region = pages[0];
  c->vmcs = pages[1];
  c->page = pages[2];
  c->image = pages[3];
  c->bitmap = pages[4];
  c->descriptor = pages[5];
  c->msr_areas = pages[6];
  c->code = code_pages[index];
  c->log_base = logs[index];
  c->stack = stacks[index][0];
  c->user_stack = stacks[index][1];
  processor_load_tables(c);
  c->apic_id = cpuid(1).ebx >> 24;
  apic_init(c);
  enable_wide_registers();
  if (vmx_state == VMX_ROOT && !enter_root_operation(c)) fail("VMXON failed");
}

void processors_init(void) {
  make_idt(guest_idt, guest_stubs);
  make_idt(host_idt, host_stubs);
  under_hypervisor = (cpuid(1).ecx & CPUID_HYPERVISOR) != 0;
  vmx_state = VMX_ABSENT;
  if (cpuid(1).ecx & CPUID_VMX) vmx_state = is_locked_off() ? VMX_LOCKED_OFF : VMX_ROOT;
}
