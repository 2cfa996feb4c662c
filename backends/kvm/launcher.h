/* The launcher: a virtual machine of KVM that has what the probe wants, and nothing else. */
#ifndef LAUNCHER_H
#define LAUNCHER_H

#include "../probe/wire.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <semaphore.h>
#include <stddef.h>

#define RAM_SIZE ((size_t)RECORDS_BASE + RECORDS_ROOM)
#define ROM_SIZE ((size_t)1 << 20)

/* Exit statuses. */
#define CANNOT_START 2 /* nothing has run: the message says what to do */
#define ENDED_BADLY 1  /* the machine came to no end of its own */

struct vm;

struct vcpu {
  struct vm *vm;
  u32 index;
  int fd;
  struct kvm_run *run;
  u64 last_step; /* RIP */
  int halts;     /* the next instruction is HLT */
  int waits;     /* for a place where stepping goes on */
  pthread_t thread;
};

struct vm {
  int kvm, fd;
  u8 *rom, *ram;
  size_t room; /* bytes at RECORDS_BASE that frames may fill */
  u32 cpus;
  int stepped; /* guests at level guest */
  struct vcpu vcpus[MAX_CPUS];
  sem_t over;
  volatile int stopping;
  char trouble[512]; /* why it ended, where not by the probe's own doing */
};

/* Prints one line and ends the process. */
void cannot(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* host.c: /dev/kvm, or why not. */
int host_open(void);
void host_want_vmx(const struct kvm_cpuid2 *supported);

/* vm.c: `image` and `records` are file names; no records: they stay in memory. */
void vm_open(struct vm *vm, int want_vmx);
void vm_create(struct vm *vm, const char *image, const char *records);

/* steps.c */
void steps_switch(struct vcpu *v, int on);
void steps_go_on(struct vcpu *v);

/* vcpu.c: runs until the machine is over or stops; the first trouble of any is kept. */
void *vcpu_run(void *vcpu);
void vcpu_describe(const struct vcpu *v);
void machine_over(struct vm *vm, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
