# Where C cannot reach: the start of each processor, VM entry and VM exit, interrupt stubs, and the two
# routines that emitted guest code calls. struct cpu's first words are laid out for this file (offsets.h).

#include "offsets.h"

    .section .text.start, "ax"
    .globl _start
_start:
    jmp 4f
    .balign 8
    .globl boot
boot:                                   # start.S puts it here behind the copy
    .quad 0
    .quad 0
4:  movq restarting(%rip), %rdi
    testq %rdi, %rdi
    jnz 3f
    movl $1, %eax                       # a ticket: 0 is the bootstrap processor
    lock xaddl %eax, ticket(%rip)
    movl %eax, %edi
    incl %eax
    shll $BOOT_STACK_SHIFT, %eax
    leaq boot_stacks(%rip), %rsp
    addq %rax, %rsp
    testl %edi, %edi
    jnz 1f
    movl %edi, %ebx
    leaq __bss_start(%rip), %rdi
    leaq __bss_end(%rip), %rcx
    subq %rdi, %rcx
    shrq $3, %rcx
    xorl %eax, %eax
    rep stosq
    movl %ebx, %edi
1:  call start
2:  hlt
    jmp 2b

3:  movq $0, restarting(%rip)           # a case has sent this processor an INIT: on with the case
    movq CPU_EMITTED_STACK(%rdi), %rsp
    movq %rdi, %r15
    call guest_restarted
    movl $0x10, %r12d
    call *%rax
    jmp emitted_returned

    .text
# int vm_enter(struct cpu *, int resume): 0 after a VM exit, 1 VMfailInvalid, 2 VMfailValid.
    .globl vm_enter
vm_enter:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rdi
    cmpq %rsp, CPU_HOST_STACK(%rdi)
    je 1f
    movq %rsp, CPU_HOST_STACK(%rdi)
    movl $0x6c14, %eax                  # host RSP
    vmwrite %rsp, %rax
1:  testl %esi, %esi
    movq CPU_RAX(%rdi), %rax
    movq CPU_RCX(%rdi), %rcx
    movq CPU_RDX(%rdi), %rdx
    movq CPU_RBX(%rdi), %rbx
    movq CPU_RBP(%rdi), %rbp
    movq CPU_RSI(%rdi), %rsi
    movq CPU_R8(%rdi), %r8
    movq CPU_R9(%rdi), %r9
    movq CPU_R10(%rdi), %r10
    movq CPU_R11(%rdi), %r11
    movq CPU_R12(%rdi), %r12
    movq CPU_R13(%rdi), %r13
    movq CPU_R14(%rdi), %r14
    movq CPU_R15(%rdi), %r15
    movq CPU_RDI(%rdi), %rdi
    jnz 1f
    vmlaunch
    jmp 2f
1:  vmresume
2:  movl $1, %eax                       # flags survive MOV and POP
    movl $2, %edx
    cmovzl %edx, %eax
    jmp 3f

    .globl vm_exit
vm_exit:
    pushq %rdi
    movq 8(%rsp), %rdi
    movq %rax, CPU_RAX(%rdi)
    movq %rcx, CPU_RCX(%rdi)
    movq %rdx, CPU_RDX(%rdi)
    movq %rbx, CPU_RBX(%rdi)
    movq %rbp, CPU_RBP(%rdi)
    movq %rsi, CPU_RSI(%rdi)
    movq %r8, CPU_R8(%rdi)
    movq %r9, CPU_R9(%rdi)
    movq %r10, CPU_R10(%rdi)
    movq %r11, CPU_R11(%rdi)
    movq %r12, CPU_R12(%rdi)
    movq %r13, CPU_R13(%rdi)
    movq %r14, CPU_R14(%rdi)
    movq %r15, CPU_R15(%rdi)
    popq %rax
    movq %rax, CPU_RDI(%rdi)
    xorl %eax, %eax
3:  popq %rdi
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

# A guest before all cases: touches each page from RDI up to RSI.
    .globl guest_touch
guest_touch:
    lock orb $0, (%rdi)
    addq $4096, %rdi
    cmpq %rsi, %rdi
    jb guest_touch
    vmcall

# void call_emitted(const u8 *code, struct cpu *): run emitted code that ends with RET.
    .globl call_emitted
call_emitted:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq CPU_EMITTED_STACK(%rsi)
    movq %rsp, CPU_EMITTED_STACK(%rsi)
    movq %rsi, %r15
    movl $0x10, %r12d
    call *%rdi
emitted_returned:
    popq CPU_EMITTED_STACK(%r15)
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

# Called by emitted code after a read: appends a value event for the slot in R14D; keeps all but R13.
# The slot of the log is taken by one XADD, since an interrupt handler may append in between.
    .globl log_value
log_value:
    movl $EVENT_BYTES, %r13d
    xaddq %r13, CPU_LOG(%r15)
    cmpq CPU_LOG_END(%r15), %r13
    jae 1f
    movl $EVENT_VALUE_TYPE, (%r13)
    movw %r14w, 2(%r13)
    movq %rax, 8(%r13)
    movq %rdx, 16(%r13)
1:  ret
    .globl log_value_end
log_value_end:

# 256 stubs for each of two interrupt-descriptor tables, 16 bytes apart: vectors 8, 10-14 bring an error
# code of their own; 17 and 21 do not when they are interrupts, and never are exceptions here.
    .macro stubs name, common
    .balign 4096                        # make_idt adds within 64 KiB
    .globl \name
\name:
    .set vector, 0
    .rept 256
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14))
    pushq $0
    .endif
    pushq $vector
    jmp \common
    .set vector, vector + 1
    .endr
    .endm

    .macro common name, handler
\name:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %rbx
    pushq %r13
    pushq %r14
    movq %rsp, %rdi
    movq %rsp, %rbx
    andq $-16, %rsp
    cld
    call \handler
    movq %rbx, %rsp
    popq %r14
    popq %r13
    popq %rbx
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq
    .endm

    stubs guest_stubs, guest_common
    common guest_common, guest_trap
    stubs host_stubs, host_common
    common host_common, host_trap

    .data
    .balign 4
ticket:
    .long 0
    .section .note.GNU-stack, "", @progbits
