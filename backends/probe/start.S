# From a start-up IPI, or from a kernel loader's 32-bit entry, to 64-bit mode. reset.S and kernel.S include it:
# HOME is where its first page lies below 1 MiB, START_AT where all of it does, PROBE_AT and BATCH_AT where
# probe and batch do. The bootstrap processor copies page tables and probe, the probe to 1 MiB, and leaves
# there what it was told.

#include "modes.S"

    .set PROBE_ROOM, 0x20000
    .set PROBE_BASE, 0x100000
    .set PROBE_BATCH, PROBE_BASE + 8    # `boot` of entry.S
    .set PROBE_START_VECTOR, PROBE_BASE + 16
    .set TABLES, 0x10000                # PML4, PDPT, four page directories
    .set APIC_BASE_BSP, 0x100

    .code16
    .globl entry16
entry16:
    enter_protected_mode

    .code32
protected:
    load_data_segments
    movl $0x1b, %ecx
    rdmsr
    testl $APIC_BASE_BSP, %eax
    jz 2f
    movl $(START_AT + page_tables - entry16), %esi
    movl $TABLES, %edi
    movl $((page_tables_end - page_tables) / 4), %ecx
    rep movsl
2:  enter_64_bit_mode

    .code64
long_mode:
    load_data_segments
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movl $0x1b, %ecx
    rdmsr
    testl $APIC_BASE_BSP, %eax
    jz 3f
    movl $PROBE_AT, %esi
    movl $PROBE_BASE, %edi
    movl $(PROBE_ROOM / 8), %ecx
    rep movsq
    movl $BATCH_AT, %eax
    movq %rax, PROBE_BATCH
    movl $(HOME >> 12), PROBE_START_VECTOR
3:  movl $PROBE_BASE, %eax
    jmp *%rax

    flat_segments

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
