/* Which registers of the physical APIC a case can change. Where another hypervisor runs below, each register
 * that is read is a VM exit, or two: so only these are looked at behind each case, and all behind every
 * CASES_UNREAD'th and the last of a batch. */
#ifndef REACH_H
#define REACH_H

#include "cpu.h"

#define CASES_UNREAD 64
#define REACH(number) (1ul << (number)) /* MSR - 800H, which is below 40H */
#define REACH_PPR REACH(0x0a) /* stands for TPR and ISR: it is 0 only where they are */
#define REACH_ESR REACH(0x28)
#define REACH_IRR (0xfful << 0x20)
#define REACH_ALL (~0ul)

u64 reach_of(const struct cpu *c);

#endif
