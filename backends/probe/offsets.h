/* What entry.S knows of struct cpu and of value events; cpu.h holds each number against the structs. */
#ifndef OFFSETS_H
#define OFFSETS_H

#define CPU_RAX 0
#define CPU_RCX 8
#define CPU_RDX 16
#define CPU_RBX 24
#define CPU_RBP 32
#define CPU_RSI 40
#define CPU_RDI 48
#define CPU_R8 56
#define CPU_R9 64
#define CPU_R10 72
#define CPU_R11 80
#define CPU_R12 88
#define CPU_R13 96
#define CPU_R14 104
#define CPU_R15 112
#define CPU_LOG 120
#define CPU_LOG_END 128
#define CPU_LOG_VALUE 136
#define CPU_DELIVERIES 144
#define CPU_SELF 152
#define CPU_EMITTED_STACK 160
#define CPU_HOST_STACK 168
#define EVENT_BYTES 24
#define EVENT_VALUE_TYPE 1
#define BOOT_STACK_SHIFT 14

#endif
