/* A processor: runs, answers what nobody else in the machine does, and says why it stopped. */
#include "launcher.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PORT_E9 0xe9
#define PORT_SHUTDOWN 0x8900

void machine_over(struct vm *vm, const char *format, ...) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  va_list arguments;
  pthread_mutex_lock(&lock);
  if (!vm->stopping && format) {
    va_start(arguments, format);
    vsnprintf(vm->trouble, sizeof(vm->trouble), format, arguments);
    va_end(arguments);
  }
  vm->stopping = 1;
  pthread_mutex_unlock(&lock);
  sem_post(&vm->over);
}

/* Returns 1 where the machine is over. */
static int port(struct vcpu *v) {
  struct kvm_run *run = v->run;
  u8 *data = (u8 *)run + run->io.data_offset;
  size_t length = (size_t)run->io.size * run->io.count;
  if (run->io.direction == KVM_EXIT_IO_IN) {
    memset(data, 0xff, length);
  } else if (run->io.port == PORT_SHUTDOWN) {
    machine_over(v->vm, NULL);
    return 1;
  } else if (run->io.port == PORT_YIELD) {
    (void)usleep(1); /* sched_yield may prefer who has had less of the processor, though it waits */
  } else if (run->io.port == PORT_E9 && v->vm->stepped) {
    steps_switch(v, *data == GUEST_BEGINS);
  } else if (run->io.port == PORT_E9 && write(STDOUT_FILENO, data, length) != (ssize_t)length) {
    machine_over(v->vm, "the output cannot be written: %s", strerror(errno));
    return 1;
  }
  return 0;
}

static const char *internal_error(u32 suberror) {
  switch (suberror) {
    case KVM_INTERNAL_ERROR_EMULATION: return "KVM cannot emulate an instruction";
    case KVM_INTERNAL_ERROR_SIMUL_EX: return "an exception while another was delivered";
    case KVM_INTERNAL_ERROR_DELIVERY_EV: return "a VM exit while an event was delivered";
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: return "a VM exit that KVM does not know";
  }
  return "no reason that is known here";
}

static void say_internal_error(struct vcpu *v) {
  const struct kvm_run *run = v->run;
  char data[160] = "";
  size_t at = 0;
  for (u32 i = 0; i < run->internal.ndata && i < 6; i++)
    at += (size_t)snprintf(data + at, sizeof(data) - at, " %llx", run->internal.data[i]);
  machine_over(v->vm, "KVM_EXIT_INTERNAL_ERROR on processor %u, suberror %u: %s; data%s", v->index,
               run->internal.suberror, internal_error(run->internal.suberror), at ? data : " none");
}

/* Returns 1 where the machine is over. */
static int handle(struct vcpu *v) {
  struct kvm_run *run = v->run;
  switch (run->exit_reason) {
    case KVM_EXIT_IO: return port(v);
    case KVM_EXIT_MMIO: /* nothing is there */
      if (!run->mmio.is_write) memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
      return 0;
    case KVM_EXIT_DEBUG: steps_go_on(v); return 0;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_IOAPIC_EOI: return 0;
    case KVM_EXIT_FAIL_ENTRY:
      machine_over(
          v->vm,
          "KVM_EXIT_FAIL_ENTRY on processor %u: the hardware refused VM entry, reason %#llx; is this "
          "KVM on a processor that works?",
          v->index, run->fail_entry.hardware_entry_failure_reason);
      return 1;
    case KVM_EXIT_INTERNAL_ERROR: say_internal_error(v); return 1;
    case KVM_EXIT_SHUTDOWN:
      machine_over(v->vm, "shutdown (a triple fault) on processor %u", v->index);
      return 1;
    case KVM_EXIT_UNKNOWN:
      machine_over(v->vm, "KVM_EXIT_UNKNOWN on processor %u, hardware reason %#llx", v->index,
                   run->hw.hardware_exit_reason);
      return 1;
  }
  machine_over(v->vm, "KVM exit %u on processor %u, which this launcher does not know", run->exit_reason,
               v->index);
  return 1;
}

void *vcpu_run(void *vcpu) {
  struct vcpu *v = vcpu;
  while (!v->vm->stopping) {
    if (!ioctl(v->fd, KVM_RUN, 0)) {
      if (handle(v)) break;
    } else if (errno != EINTR && errno != EAGAIN) {
      machine_over(v->vm, "KVM_RUN on processor %u: %s", v->index, strerror(errno));
    }
  }
  return NULL;
}

/* Only while nobody runs it. */
void vcpu_describe(const struct vcpu *v) {
  static const char *const states[] = {"runnable", "wait-for-SIPI (never started)", "INIT received", "HLT",
                                       "SIPI received"};
  struct kvm_mp_state state = {0};
  struct kvm_regs regs;
  struct kvm_sregs sregs;
  if (ioctl(v->fd, KVM_GET_REGS, &regs) || ioctl(v->fd, KVM_GET_SREGS, &sregs)) return;
  (void)ioctl(v->fd, KVM_GET_MP_STATE, &state);
  fprintf(stderr,
          "processor %u: RIP %llx RFLAGS %llx RAX %llx RCX %llx RDX %llx RSP %llx CS %x CR0 %llx CR2 %llx "
          "CR4 %llx "
          "APIC base %llx, %s\n",
          v->index, regs.rip, regs.rflags, regs.rax, regs.rcx, regs.rdx, regs.rsp, sregs.cs.selector,
          sregs.cr0, sregs.cr2, sregs.cr4, sregs.apic_base,
          state.mp_state < 5 ? states[state.mp_state] : "another state");
}
