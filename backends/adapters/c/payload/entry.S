/* The payload's entry, its interrupt stubs, and what emitted code calls. Nothing here knows where it lies. */
#include "payload.h"

.section .text.entry, "ax"
.globl start
start: /* RDI: the struct payload */
  mov %rdi, %r15
  mov %ss, %r12d
  lea stubs(%rip), %rsi
  lea log_value(%rip), %rdx
  call prepare /* RAX: the emitted code, 0 if it is refused */
  test %rax, %rax
  jz 1f
  jmp *%rax
1:
  mov %r15, %rdi
  call finish
  jmp 1b

/* Ends the guest; RDI is the struct. A VMM that goes on behind it finds the end again. */
.globl finish
finish:
  mov 8(%rdi), %eax
  and $3, %eax
  cmp $PAYLOAD_HLT, %eax
  je 2f
  cmp $PAYLOAD_PORT, %eax
  je 3f
  vmcall
  ret
2:
  cli
  hlt
  ret
3:
  out %al, $0xe9
  ret

/* The emitted code calls it behind a read: RAX and RDX are the value, R14D is the slot. */
log_value:
  mov $24, %ecx
  xadd %ecx, PAYLOAD_EVENTS_USED(%r15)
  lea 24(%rcx), %r13d
  cmp PAYLOAD_EVENTS_ROOM(%r15), %r13d
  ja 1f
  add PAYLOAD_EVENTS(%r15), %rcx
  mov %r14, %r13
  shl $16, %r13
  or $1, %r13 /* EVENT_VALUE */
  mov %r13, (%rcx)
  mov %rax, 8(%rcx)
  mov %rdx, 16(%rcx)
1:
  ret
.globl log_value, log_value_end
log_value_end:

/* void call_handler(u64 code, struct payload *): steps of a handler keep R12 and R15 alone. */
.globl call_handler
call_handler:
  push %rbx
  push %rbp
  push %r13
  push %r14
  call *%rdi
  pop %r14
  pop %r13
  pop %rbp
  pop %rbx
  ret

.balign 16
.globl stubs
stubs:
vector = 0
.rept 256
  .balign 16
  .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
  push $0
  .endif
  push $vector
  jmp common
  vector = vector + 1
.endr

common:
  cld
  push %rax
  push %rcx
  push %rdx
  push %rbx
  push %rbp
  push %rsi
  push %rdi
  push %r8
  push %r9
  push %r10
  push %r11
  push %r12
  push %r13
  push %r14
  mov %rsp, %rdi
  mov %r15, %rsi
  mov %rsp, %rbp
  and $-16, %rsp
  call trap
  mov %rbp, %rsp
  pop %r14
  pop %r13
  pop %r12
  pop %r11
  pop %r10
  pop %r9
  pop %r8
  pop %rdi
  pop %rsi
  pop %rbp
  pop %rbx
  pop %rdx
  pop %rcx
  pop %rax
  add $16, %rsp
  iretq

.section .note.GNU-stack, "", @progbits
