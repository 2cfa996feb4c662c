/* Single-stepping, for a KVM without VT-x: it emulates many instructions before it looks for interrupts, unless
 * it steps them. Loops and HLT take them at the same place anyway and are not stepped. */
#include "launcher.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define DR7_L0 1
#define HLT 0xf4
#define CLD 0xfc
#define CALL_BYTES 5
#define HLTS 64 /* one behind the other */

/* `until` is where stepping goes on; 0: at once. */
static void debug(struct vcpu *v, u32 control, u64 until) {
  struct kvm_guest_debug debug = {.control = control, .arch.debugreg = {until, [7] = until ? DR7_L0 : 0}};
  v->waits = until != 0;
  v->last_step = 0;
  if (ioctl(v->fd, KVM_SET_GUEST_DEBUG, &debug))
    machine_over(v->vm, "KVM does not step processor %u: %s", v->index, strerror(errno));
}

void steps_switch(struct vcpu *v, int on) {
  if (on && v->halts && v->waits)
    return; /* a handler that ends an HLT, where a timer may be faster than steps */
  debug(v, on ? KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP : 0, 0);
}

/* The RIP that an IRET returns to at CPL 0; 0 at CPL 3. */
static u64 returns_to(const struct vcpu *v) {
  struct kvm_regs regs;
  u64 frame[2];
  if (ioctl(v->fd, KVM_GET_REGS, &regs) || regs.rsp >= RAM_SIZE - sizeof(frame)) return 0;
  memcpy(frame, v->vm->ram + regs.rsp, sizeof(frame));
  return frame[1] & 3 ? 0 : frame[0];
}

/* Where a loop ends whose last instruction is this one; 0 for other instructions. */
static u64 behind_conditional_jump(const u8 *ram, u64 rip) {
  if ((ram[rip] & 0xf0) == 0x70) return rip + 2;
  return ram[rip] == 0x0f && (ram[rip + 1] & 0xf0) == 0x80 ? rip + 6 : 0;
}

/* What comes next needs no steps up to the place that is returned; 0: it does. The probe's interrupt stubs call
 * their C with CLD, CALL. A KVM that steps an IRET runs another instruction before it looks for interrupts. */
static u64 skip_to(const struct vcpu *v, u64 rip) {
  const u8 *next = v->vm->ram + rip;
  if (rip >= RAM_SIZE - HLTS) return 0;
  if (next[0] == HLT) {
    while (*next == HLT && next < v->vm->ram + rip + HLTS) next++;
    return (u64)(next - v->vm->ram);
  }
  if (next[0] == CLD) return rip + 1 + CALL_BYTES;
  if (next[0] == 0x48 && next[1] == 0xcf) return returns_to(v);
  if (rip < v->last_step && v->last_step < RAM_SIZE - HLTS)
    return behind_conditional_jump(v->vm->ram, v->last_step);
  return 0;
}

void steps_go_on(struct vcpu *v) {
  u64 rip = v->run->debug.arch.pc, until;
  int waited = v->waits;
  v->waits = 0;
  if (waited) steps_switch(v, 1);
  until = skip_to(v, rip);
  v->last_step = rip;
  v->halts = rip < RAM_SIZE && v->vm->ram[rip] == HLT;
  if (until) debug(v, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, until);
}
