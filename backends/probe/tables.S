# Tables that would cost a boot more to make than to carry: where KVM has no VT-x under it, it emulates
# each instruction of this program.

    .section .rodata
# Table k holds the CRC-32 of each byte with k zero bytes behind it.
    .globl crc_tables
    .balign 64
crc_tables:
    .set bits, 8
    .rept 8
    .set byte, 0
    .rept 256
    .set crc, byte
    .rept bits
    .set crc, (crc >> 1) ^ (0xedb88320 * (crc & 1))
    .endr
    .long crc
    .set byte, byte + 1
    .endr
    .set bits, bits + 8
    .endr

# The words of a page filled with FILL_TAGGED.
    .globl tagged_words
    .balign 64
tagged_words:
    .set offset, 0
    .rept 1024
    .long 0xa5000000 | offset << 12 | offset >> 2
    .set offset, offset + 4
    .endr
    .section .note.GNU-stack, "", @progbits
