# The last 64 KiB of the ROM. They are also at F0000H, where a start-up IPI with vector F0H leads.

    .set HOME, 0xf0000
    .set START_AT, 0xf0000
    .set PROBE_AT, 0xfffd0000
    .set BATCH_AT, 0xfff00000

    .section .image, "ax"
#include "start.S"

    .org 0xfff0
    .code16
    ljmp $0xf000, $0
    .org 0x10000
    .section .note.GNU-stack, "", @progbits
