# A 64-KiB system ROM that starts Linux without a BIOS: from the reset vector to 64-bit mode, the disk's
# pieces into memory, then the kernel's 64-bit entry with RSI = boot parameters.
#
# Sector 0 of the disk: u64 entry, u64 parameters, u64 pieces, then for each piece u32 address,
# u32 first sector, u32 sectors, u32 0; sectors is a multiple of 64. Twin of backends/emulated/disk.py.

#include "../../probe/modes.S"

    .set HOME, 0xf0000
    .set TABLES, 0x10000                # PML4, PDPT, four page directories
    .set DIRECTORY, 0x8000              # where sector 0 goes
    .set PER_COMMAND, 64                # sectors
    .set ATA_COUNT, 0x1f2
    .set ATA_STATUS, 0x1f7

    .section .rom, "ax"
    .code16
    .globl entry16
entry16:
    enter_protected_mode

    .code32
protected:
    load_data_segments
    movw %ax, %fs
    movw %ax, %gs
    movl $DIRECTORY, %esp
    movl $TABLES, %edi                  # identity map, 2-MiB pages
    xorl %eax, %eax
    movl $0x1800, %ecx
    rep stosl
    movl $(TABLES + 0x1003), TABLES
    movl $(TABLES + 0x2003), TABLES + 0x1000
    movl $(TABLES + 0x3003), TABLES + 0x1008
    movl $(TABLES + 0x4003), TABLES + 0x1010
    movl $(TABLES + 0x5003), TABLES + 0x1018
    movl $(TABLES + 0x2000), %edi
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b

    xorl %ebx, %ebx
    movl $1, %ecx
    movl $DIRECTORY, %edi
    call read_sectors
    movl $(DIRECTORY + 24), %esi
2:  decl DIRECTORY + 16
    js 4f
    movl (%esi), %edi
    movl 4(%esi), %ebx
    movl 8(%esi), %ebp
3:  movl $PER_COMMAND, %ecx
    call read_sectors
    subl $PER_COMMAND, %ebp
    ja 3b
    addl $16, %esi
    jmp 2b

4:  enter_64_bit_mode

# Reads ECX sectors from EBX on to EDI; moves both on.
read_sectors:
    movl $ATA_COUNT, %edx
    movb %cl, %al
    outb %al, %dx
    movl %ebx, %eax
    incl %edx
    outb %al, %dx
    shrl $8, %eax
    incl %edx
    outb %al, %dx
    shrl $8, %eax
    incl %edx
    outb %al, %dx
    shrl $8, %eax
    orb $0xe0, %al                      # LBA
    incl %edx
    outb %al, %dx
    incl %edx
    movb $0x20, %al                     # READ SECTORS
    outb %al, %dx
    addl %ecx, %ebx
1:  movl $ATA_STATUS, %edx
    inb %dx, %al
    andb $0x89, %al                     # BSY, DRQ, ERR
    testb $1, %al
    jnz 2f
    cmpb $0x08, %al
    jne 1b
    pushl %ecx
    movl $0x1f0, %edx
    movl $256, %ecx
    rep insw
    popl %ecx
    loop 1b
    ret
2:  movl $0xe9, %edx                    # a disk that does not answer
    movb $'!', %al
    outb %al, %dx
3:  hlt
    jmp 3b

    .code64
long_mode:
    load_data_segments
    xorl %ebx, %ebx
    xorl %ebp, %ebp
    xorl %edi, %edi
    movl $DIRECTORY, %esp
    movq DIRECTORY + 8, %rsi
    movq DIRECTORY, %rax
    jmp *%rax

    flat_segments

    .org 0xfff0
    .code16
    ljmp $0xf000, $0
    .org 0x10000
    .section .note.GNU-stack, "", @progbits
