/* Single instructions, and the few memory routines that a freestanding compiler wants. */
#ifndef MACHINE_H
#define MACHINE_H

#include "cpu.h"

static inline void out8(u16 port, u8 value) { asm volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }

static inline u8 in8(u16 port) {
  u8 value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

/* Where the local APIC is disabled or its LINT0 open, their interrupts would reach a guest. */
static inline void mask_8259s(void) {
  out8(0x21, 0xff);
  out8(0xa1, 0xff);
}

static inline void out_string(u16 port, const void *data, u64 length) {
  asm volatile("rep outsb" : "+S"(data), "+c"(length) : "d"(port) : "memory");
}

static inline u64 rdmsr(u32 msr) {
  u32 low, high;
  asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
  return low | (u64)high << 32;
}

static inline void wrmsr(u32 msr, u64 value) {
  asm volatile("wrmsr" ::"c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

/* An instruction that may fault and what then comes next; host_trap looks here. The faulting
 * instruction leaves vector + 1 in R8D. */
struct exception_entry {
  u64 instruction, next;
};
extern const struct exception_entry __exceptions_start[], __exceptions_end[];

#define MAY_FAULT(instruction)                                                                               \
  "xorl %%r8d, %%r8d\n1: " instruction "\n2:\n.pushsection .exceptions, \"a\"\n.quad 1b, 2b\n.popsection\n"

/* RDMSR and WRMSR that return 0, or vector + 1 of the fault. */
static inline u32 try_rdmsr(u32 msr, u64 *value) {
  u32 low = 0, high = 0;
  register u32 fault asm("r8");
  asm volatile(MAY_FAULT("rdmsr") : "+a"(low), "+d"(high), "=&r"(fault) : "c"(msr));
  *value = low | (u64)high << 32;
  return fault;
}

static inline u32 try_wrmsr(u32 msr, u64 value) {
  register u32 fault asm("r8");
  asm volatile(MAY_FAULT("wrmsr")
               : "=&r"(fault)
               : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32))
               : "memory");
  return fault;
}

struct cpuid {
  u32 eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(u32 leaf) {
  struct cpuid r;
  asm volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(0));
  return r;
}

static inline int vmwrite(u64 field, u64 value) {
  u8 failed;
  asm volatile("vmwrite %2, %1; setbe %0" : "=r"(failed) : "r"(field), "r"(value) : "cc");
  return failed;
}

/* 0 for a field that the processor does not have. */
static inline u64 vmread(u64 field) {
  u64 value = 0;
  asm volatile("vmread %1, %0" : "+r"(value) : "r"(field) : "cc");
  return value;
}

static inline struct cpu *this_cpu(void) {
  struct cpu *c;
  asm volatile("movq %%gs:%c1, %0" : "=r"(c) : "i"(CPU_SELF));
  return c;
}

/* IRET ends blocking by NMI, which a VM exit leaves in force where the guest had it. */
static inline void unblock_nmis(void) {
  u64 rsp;
  asm volatile("movq %%rsp, %0\n"
               "pushq %2\n"
               "pushq %0\n"
               "pushfq\n"
               "pushq %1\n"
               "leaq 1f(%%rip), %0\n"
               "pushq %0\n"
               "iretq\n"
               "1:"
               : "=&r"(rsp)
               : "i"(SELECTOR_CODE), "i"(SELECTOR_DATA)
               : "memory");
}

/* String instructions: emulators run them far faster than loops. */
static inline void fill32(void *to, u32 value, u64 words) {
  asm volatile("rep stosl" : "+D"(to), "+c"(words) : "a"(value) : "memory");
}

static inline void copy64(void *to, const void *from, u64 words) {
  asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words)::"memory");
}

void load_idt(const u64 *idt);
void *memset(void *to, int value, size_t length);
void *memcpy(void *to, const void *from, size_t length);

#endif
