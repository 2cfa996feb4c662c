#include "batches.h"

u32 frames_length(const u8 *frames, u32 room) {
  u32 at = 0;
  while (at + sizeof(struct frame) <= room) {
    const struct frame *f = (const struct frame *)(frames + at);
    if (f->magic != FRAME_MAGIC || f->length > room - at - sizeof(*f)) break;
    at += (u32)sizeof(*f) + f->length;
  }
  return at;
}

u32 cases_over(const u8 *frames, u32 length, u32 begun) {
  for (u32 at = 0; at < length;) {
    const struct frame *f = (const struct frame *)(frames + at);
    const struct wire_end *end = (const struct wire_end *)(f + 1);
    if (end->kind == FRAME_END) return end->done ? end->done : 1;
    at += (u32)sizeof(*f) + f->length;
  }
  return begun ? begun : NOTHING_RAN;
}
