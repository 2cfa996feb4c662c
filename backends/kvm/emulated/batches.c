#include "batches.h"

#include <string.h>

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

static u32 crc32(const u8 *p, u64 length) {
  static u32 table[256];
  u32 crc = 0xffffffffu;
  for (u32 i = 0; i < 256; i++) {
    u32 c = i;
    for (int k = 0; k < 8; k++) c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
    table[i] = c;
  }
  while (length--) crc = crc >> 8 ^ table[(crc ^ *p++) & 0xff];
  return ~crc;
}

u32 batch_drop(struct batch *batch, u32 cases) {
  u8 *records = (u8 *)(batch + 1), *at = records;
  u32 left;
  if (cases >= batch->count) return 0;
  for (u32 i = 0; i < cases; i++) at += ((const struct wire_case *)at)->size;
  left = batch->size - (u32)(at - (u8 *)batch);
  memmove(records, at, left);
  batch->count -= cases;
  batch->size = (u32)sizeof(*batch) + left;
  batch->crc = crc32(records, left);
  return batch->count;
}
