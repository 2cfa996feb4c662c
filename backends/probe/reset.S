# The last 64 KiB of the ROM: from the reset vector, or a start-up IPI with vector F0H, to 64-bit mode.
# The bootstrap processor copies page tables and probe out of the ROM, the probe to 1 MiB.

    .set PROBE_IN_ROM, 0xfffd0000
    .set PROBE_ROOM, 0x20000
    .set PROBE_BASE, 0x100000
    .set TABLES, 0x10000                # PML4, PDPT, four page directories
    .set APIC_BASE_BSP, 0x100

    .section .rom, "ax"
    .code16
    .globl entry16
entry16:
    cli
    cld
    lgdtl %cs:gdt_pointer - entry16
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x08, $(0xf0000 + protected - entry16)

    .code32
protected:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x1b, %ecx
    rdmsr
    testl $APIC_BASE_BSP, %eax
    jz 2f
    movl $(0xf0000 + page_tables - entry16), %esi
    movl $TABLES, %edi
    movl $((page_tables_end - page_tables) / 4), %ecx
    rep movsl
2:  movl $TABLES, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax                     # PAE
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax                    # LME
    wrmsr
    movl $0x80000021, %eax              # PG, NE, PE; caches on
    movl %eax, %cr0
    ljmpl $0x18, $(0xf0000 + long_mode - entry16)

    .code64
long_mode:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movl $0x1b, %ecx
    rdmsr
    testl $APIC_BASE_BSP, %eax
    jz 3f
    movl $PROBE_IN_ROM, %esi
    movl $PROBE_BASE, %edi
    movl $(PROBE_ROOM / 8), %ecx
    rep movsq
3:  movl $PROBE_BASE, %eax
    jmp *%rax

    .balign 16
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            # 08H 32-bit code
    .quad 0x00cf93000000ffff            # 10H data
    .quad 0x00af9b000000ffff            # 18H 64-bit code
gdt_pointer:
    .word . - gdt - 1
    .long 0xf0000 + gdt - entry16

    .balign 16
page_tables:                            # identity map, 2-MiB pages, user pages throughout
    .quad TABLES + 0x1007
    .org page_tables + 0x1000
    .quad TABLES + 0x2007, TABLES + 0x3007, TABLES + 0x4007, TABLES + 0x5007
    .org page_tables + 0x2000
    .set address, 0
    .rept 2048
    .quad address | 0x87
    .set address, address + 0x200000
    .endr
page_tables_end:

    .org 0xfff0
    .code16
    ljmp $0xf000, $0
    .org 0x10000
    .section .note.GNU-stack, "", @progbits
