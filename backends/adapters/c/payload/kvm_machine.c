#define _GNU_SOURCE
#include "kvm_machine.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#define SECONDS 5
#define MOST_LEAVES 256

#define APIC_BASE 0xfee00900u
#define APIC_EXTD 0x400u
#define APIC_EN 0x800u
#define MSR_APIC_BASE 0x1b
#define LVT_MASKED 0x10000u

static void set_u32(u8 *at, u32 value) { memcpy(at, &value, 4); }
static void set_u64(u8 *at, u64 value) { memcpy(at, &value, 8); }

static u32 get_u32(const void *at) {
  u32 value;
  memcpy(&value, at, 4);
  return value;
}

static void write_tables(u8 *memory) {
  set_u64(memory + GDT + 8, 0x00209b0000000000); /* 64-bit code */
  set_u64(memory + GDT + 16, 0x0000930000000000); /* data */
  set_u64(memory + PAGE_TABLES, (PAGE_TABLES + 0x1000) | 3);
  for (u64 i = 0; i < 4; i++)
    set_u64(memory + PAGE_TABLES + 0x1000 + 8 * i, (PAGE_TABLES + 0x2000 + 0x1000 * i) | 3);
  for (u64 i = 0; i < 2048; i++) set_u64(memory + PAGE_TABLES + 0x2000 + 8 * i, i << 21 | 0x83);
}

static u64 apic_base(u8 mode) {
  if (mode == X2A_DISABLED) return APIC_BASE & ~(u64)APIC_EN;
  return APIC_BASE | (mode == X2A_X2APIC ? APIC_EXTD : 0);
}

static const char *set_registers(const struct machine *m, const struct x2a_setup *setup, u64 rip) {
  struct kvm_sregs s;
  struct kvm_regs r = {.rip = rip, .rdi = TABLE, .rsp = STACK, .rflags = 2};
  struct kvm_segment code = {.selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1, .limit = ~0u};
  struct kvm_segment data = {
      .selector = DATA_SELECTOR, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1, .limit = ~0u};
  if (ioctl(m->vcpu, KVM_GET_SREGS, &s)) return "KVM_GET_SREGS fails";
  s.cs = code;
  s.ds = s.es = s.ss = data;
  s.gdt.base = GDT;
  s.gdt.limit = 23;
  s.cr0 = 0x80000011;
  s.cr3 = PAGE_TABLES;
  s.cr4 = 0x20;
  s.efer = 0x500;
  s.apic_base = apic_base(setup->apic_mode);
  if (ioctl(m->vcpu, KVM_SET_SREGS, &s)) return "KVM_SET_SREGS fails";
  return ioctl(m->vcpu, KVM_SET_REGS, &r) ? "KVM_SET_REGS fails" : NULL;
}

/* The baseline: SVR 1FFH and all LVT entries masked. */
static const char *set_apic(const struct machine *m, const struct x2a_setup *setup) {
  struct kvm_lapic_state l;
  if (setup->apic_mode == X2A_DISABLED) return NULL;
  if (ioctl(m->vcpu, KVM_GET_LAPIC, &l)) return "KVM_GET_LAPIC fails";
  set_u32((u8 *)l.regs + 0xf0, 0x1ff);
  for (u32 at = 0x320; at <= 0x370; at += 0x10) set_u32((u8 *)l.regs + at, LVT_MASKED);
  return ioctl(m->vcpu, KVM_SET_LAPIC, &l) ? "KVM_SET_LAPIC fails" : NULL;
}

const char *machine_start(struct machine *m, const struct x2a_setup *setup, u64 rip) {
  struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
  struct kvm_userspace_memory_region region = {.memory_size = MEMORY};
  const char *trouble;
  m->vm = ioctl(m->kvm, KVM_CREATE_VM, 0);
  if (m->vm < 0 || ioctl(m->vm, KVM_ENABLE_CAP, &split)) return "KVM_CREATE_VM or its local APIC fails";
  region.userspace_addr = (u64)m->memory;
  if (ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region)) return "KVM_SET_USER_MEMORY_REGION fails";
  m->vcpu = ioctl(m->vm, KVM_CREATE_VCPU, 0);
  if (m->vcpu < 0 || ioctl(m->vcpu, KVM_SET_CPUID2, m->cpuid)) return "KVM_CREATE_VCPU or its CPUID fails";
  m->run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
  if (m->run == MAP_FAILED) return "the processor cannot be mapped";
  trouble = set_registers(m, setup, rip);
  return trouble ? trouble : set_apic(m, setup);
}

void machine_stop(struct machine *m) {
  if (m->run && m->run != MAP_FAILED) munmap(m->run, m->run_size);
  if (m->vcpu >= 0) close(m->vcpu);
  if (m->vm >= 0) close(m->vm);
  m->vcpu = m->vm = -1;
  m->run = NULL;
}

static void alarmed(int signal) { (void)signal; }

const char *machine_run(const struct machine *m, bool *ended) {
  struct itimerval limit = {.it_value = {SECONDS, 0}, .it_interval = {0, 1000}}, none = {0};
  const char *trouble = NULL;
  *ended = false;
  setitimer(ITIMER_REAL, &limit, NULL);
  while (!trouble && !*ended) {
    if (ioctl(m->vcpu, KVM_RUN, 0)) {
      if (errno == EINTR) break;
      trouble = "KVM_RUN fails";
    } else if (m->run->exit_reason == KVM_EXIT_IO) {
      *ended = true;
    } else if (m->run->exit_reason == KVM_EXIT_MMIO) {
      memset(m->run->mmio.data, 0xff, sizeof m->run->mmio.data);
    } else if (m->run->exit_reason != KVM_EXIT_IOAPIC_EOI && m->run->exit_reason != KVM_EXIT_INTR) {
      trouble = "the guest ended in an exit that was not asked for, a triple fault for instance";
    }
  }
  setitimer(ITIMER_REAL, &none, NULL);
  return trouble;
}

static const u16 told[][2] = {{0x808, 0x808}, {0x80d, 0x80d}, {0x80f, 0x828}, {0x832, 0x838}, {0x83e, 0x83e}};

unsigned machine_apic(const struct machine *m, struct x2a_register to[64]) {
  struct kvm_lapic_state l;
  struct kvm_sregs s;
  unsigned count = 0;
  if (ioctl(m->vcpu, KVM_GET_SREGS, &s) || ioctl(m->vcpu, KVM_GET_LAPIC, &l)) return 0;
  to[count++] = (struct x2a_register){MSR_APIC_BASE, s.apic_base};
  for (unsigned i = 0; i < sizeof told / sizeof *told; i++)
    for (u32 msr = told[i][0]; msr <= told[i][1]; msr++)
      to[count++] = (struct x2a_register){msr, get_u32(l.regs + ((msr & 0xff) << 4))};
  return count;
}

const char *machine_enter_at_first_step(const struct machine *m, const struct x2a_setup *setup) {
  const struct payload *table = (const struct payload *)(m->memory + TABLE);
  struct kvm_regs r;
  if (ioctl(m->vcpu, KVM_GET_REGS, &r)) return "KVM_GET_REGS fails";
  r.rip = table->entry;
  r.rax = table->rax;
  r.rcx = table->rcx;
  r.rdx = table->rdx;
  r.r12 = DATA_SELECTOR;
  r.r15 = TABLE;
  r.rflags = 2 | (setup->interrupt_flag ? 0x200 : 0);
  return ioctl(m->vcpu, KVM_SET_REGS, &r) ? "KVM_SET_REGS fails" : NULL;
}

/* What KVM supports, for a processor whose APIC ID is 0. */
static bool read_cpuid(struct machine *m) {
  struct kvm_cpuid2 *c = m->cpuid = calloc(1, sizeof *c + MOST_LEAVES * sizeof *c->entries);
  if (!c) return false;
  c->nent = MOST_LEAVES;
  if (ioctl(m->kvm, KVM_GET_SUPPORTED_CPUID, c)) return false;
  for (u32 i = 0; i < c->nent; i++) {
    if (c->entries[i].function == 1) c->entries[i].ebx &= 0xffffff;
    if (c->entries[i].function == 1) c->entries[i].ecx |= 1u << 21 | 1u << 24; /* x2APIC, TSC deadline */
    if (c->entries[i].function == 0xb) c->entries[i].edx = 0;
  }
  return true;
}

const char *machine_open(struct machine *m) {
  struct sigaction action = {.sa_handler = alarmed};
  m->vm = m->vcpu = -1;
  m->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (m->kvm < 0) return "/dev/kvm cannot be opened";
  if (!read_cpuid(m)) return "KVM_GET_SUPPORTED_CPUID fails";
  m->run_size = (size_t)ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  m->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (m->memory == MAP_FAILED) return "no memory for the guest";
  write_tables(m->memory);
  return sigaction(SIGALRM, &action, NULL) ? "SIGALRM cannot be handled" : NULL;
}
