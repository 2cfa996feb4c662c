/* How far a batch is done after a boot that did not come to its end. */
#ifndef BATCHES_H
#define BATCHES_H

#include "../../probe/wire.h"

#define NOTHING_RAN 0xffffffffu

/* How many bytes the frames take that follow one another from the first. */
u32 frames_length(const u8 *frames, u32 room);

/* How many cases need no other boot: those that END counts, or without END those that began. One at
 * least, so that a case which is never done is not tried forever; NOTHING_RAN: the probe never began. */
u32 cases_over(const u8 *frames, u32 length, u32 begun);

#endif
