# From real mode to 64-bit mode, in steps that start.S and the emulated host's boot ROM take. HOME is where entry16
# lies below 1 MiB, TABLES where the page tables do.

    .macro enter_protected_mode         # in real mode, at entry16
    cli
    cld
    lgdtl %cs:gdt_pointer - entry16
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x08, $(HOME + protected - entry16)
    .endm

    .macro load_data_segments
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    .endm

    .macro enter_64_bit_mode
    movl $TABLES, %eax
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
    ljmpl $0x18, $(HOME + long_mode - entry16)
    .endm

    .macro flat_segments
    .balign 16
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            # 08H 32-bit code
    .quad 0x00cf93000000ffff            # 10H data
    .quad 0x00af9b000000ffff            # 18H 64-bit code
gdt_pointer:
    .word . - gdt - 1
    .long HOME + gdt - entry16
    .endm
