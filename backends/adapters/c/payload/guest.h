/* What the payload's parts share: entry.S, emit.c and trap.c. No part has variables, or anything that a loader
 * would relocate. */
#ifndef GUEST_H
#define GUEST_H

#include "payload.h"

/* entry.S */
void finish(struct payload *p);
void call_handler(u64 code);
extern u8 log_value[], log_value_end[];

static inline const struct wire_handler *first_handler(const struct payload *p) {
  return (const struct wire_handler *)(p->op + p->ops);
}

static inline const struct wire_handler *next_handler(const struct wire_handler *h) {
  return (const struct wire_handler *)((const struct wire_op *)(h + 1) + h->ops);
}

#endif
