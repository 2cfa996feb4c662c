# The first 64 KiB of the image for loaders of kernels; the probe and the batch follow, as in wire.h. It is
# one ELF segment, loaded at IMAGE_BASE, with a multiboot 1 header (its address form, which 64-bit ELF needs) and
# a PVH entry. Both enter in 32-bit protected mode, flat, paging off.

    .set IMAGE_BASE, 0x1800000          # behind the frames
    .set IMAGE_PROBE, 0x10000
    .set IMAGE_BATCH, 0x30000
    .set IMAGE_SIZE, 0x100000
    .set HOME, 0x8000
    .set START_AT, IMAGE_BASE + entry16 - image
    .set PROBE_AT, IMAGE_BASE + IMAGE_PROBE
    .set BATCH_AT, IMAGE_BASE + IMAGE_BATCH
    .set MULTIBOOT_MAGIC, 0x1badb002
    .set MULTIBOOT_ADDRESSES, 0x10000
    .set XEN_ELFNOTE_PHYS32_ENTRY, 18

    .section .image, "ax"
image:
    .byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0
    .short 2, 62                        # ET_EXEC, EM_X86_64
    .long 1
    .quad IMAGE_BASE + entry32 - image
    .quad segments - image, 0
    .long 0
    .short 64, 56, 2, 0, 0, 0
segments:
    .long 1, 7                          # PT_LOAD, RWX
    .quad 0, IMAGE_BASE, IMAGE_BASE, IMAGE_SIZE, IMAGE_SIZE, 0x1000
    .long 4, 4                          # PT_NOTE, R
    .quad note - image, IMAGE_BASE + note - image, IMAGE_BASE + note - image
    .quad note_end - note, note_end - note, 4

    .balign 4
note:
    .long 4, 8, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad IMAGE_BASE + entry32 - image
note_end:
multiboot:
    .long MULTIBOOT_MAGIC, MULTIBOOT_ADDRESSES, -(MULTIBOOT_MAGIC + MULTIBOOT_ADDRESSES)
    .long IMAGE_BASE + multiboot - image, IMAGE_BASE
    .long 0, 0                          # to the end of the file; nothing behind it
    .long IMAGE_BASE + entry32 - image

    .code32
entry32:
    cli
    cld
    movl $START_AT, %esi
    movl $HOME, %edi
    movl $0x400, %ecx
    rep movsl
    lgdtl HOME + gdt_pointer - entry16
    ljmpl $0x08, $(HOME + protected - entry16)

    .balign 16
#include "start.S"
    .org IMAGE_PROBE
    .section .note.GNU-stack, "", @progbits
