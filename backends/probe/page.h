/* The pages that a case names: virtual-APIC page, MSR bitmap, the stale page, the APIC-access page. */
#ifndef PAGE_H
#define PAGE_H

#include "cpu.h"

#define STALE_WORD 0x9c401c39u

extern u8 stale_page[PAGE], apic_access_page[PAGE];

void pages_init(void);
/* What a case may have changed of the pages that all share. */
void pages_restore(void);

/* What a block says of page and bitmap; only what differs from the block before is written. */
void pages_set(struct cpu *c, const struct wire_vcpu *before, const struct wire_vcpu *block);
/* Words of the page that differ from the setup, put at `to`; returns their number. The page then is as
 * the setup says again. */
u32 page_changes(struct cpu *c, struct wire_word *to);

void bitmap_clear(struct cpu *c);
void bitmap_set(struct cpu *c, u32 first, u32 last, u32 access, int exits);

#endif
