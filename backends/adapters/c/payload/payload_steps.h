/* Between the adapter's words and the payload's: steps become operations, events become results. */
#ifndef PAYLOAD_STEPS_H
#define PAYLOAD_STEPS_H

#include <stddef.h>

#include "../x2apic_adapter.h"
#include "payload.h"

/* Writes the steps of a virtual processor into `p`, which has `room` bytes; the addresses in it are yours to
 * fill. Returns what the payload cannot do, or NULL. */
const char *payload_write(struct payload *p, size_t room, const struct x2a_program *program, unsigned vcpu);

/* Adds what the events say to an observation: `events` is the VMM's view of p->events. VM exits are the VMM's to
 * add. `stuck` is NULL where the guest came to its end; else RIP is where it was, and that step's outcome is
 * *stuck. Returns what is wrong with the events, or NULL. */
const char *payload_read(const struct payload *p, const void *events, const struct x2a_program *program,
                         unsigned vcpu, const struct x2a_outcome *stuck, u64 rip, struct x2a_observation *o);

#endif
