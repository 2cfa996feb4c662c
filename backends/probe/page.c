#include "page.h"
#include "machine.h"

#define VTPR 0x80

u8 stale_page[PAGE] __attribute__((aligned(PAGE)));
u8 apic_access_page[PAGE] __attribute__((aligned(PAGE)));
static u32 templates[3][PAGE / 4]; /* FILL_ZERO, FILL_ONES, FILL_TAGGED */

void pages_init(void) {
  fill32(templates[FILL_ONES], 0xffffffff, PAGE / 4);
  for (u32 offset = 0; offset < PAGE; offset += 4)
    templates[FILL_TAGGED][offset / 4] = 0xa5000000u | offset << 12 | offset >> 2;
  for (u32 fill = 0; fill < 3; fill++) templates[fill][VTPR / 4] &= 0xff;
  pages_restore();
}

void pages_restore(void) {
  fill32(stale_page, STALE_WORD, PAGE / 4);
  fill32(apic_access_page, 0, PAGE / 4);
}

void page_fill(struct cpu *c, u32 fill, u32 value, const struct wire_word *words, u32 count) {
  u32 *image = (u32 *)c->image;
  if (fill == FILL_VALUE) {
    fill32(image, value, PAGE / 4);
    image[VTPR / 4] &= 0xff;
  } else {
    copy64(image, templates[fill % 3], PAGE / 8);
  }
  for (u32 i = 0; i < count; i++) image[words[i].offset % PAGE / 4] = words[i].value;
  copy64(c->page, image, PAGE / 8);
}

u32 page_changes(const struct cpu *c, struct wire_word *to) {
  const u64 *now = (const u64 *)c->page, *was = (const u64 *)c->image, *from = now;
  u64 left = PAGE / 8;
  u32 n = 0;
  while (left) {
    u8 same;
    asm volatile("repe cmpsq" : "+S"(now), "+D"(was), "+c"(left), "=@ccz"(same)::"memory");
    if (same) break;
    for (u32 half = 0; half < 2; half++) {
      u32 word = (u32)(now - 1 - from) * 2 + half;
      if (((const u32 *)c->page)[word] != ((const u32 *)c->image)[word])
        to[n++] = (struct wire_word){word * 4, ((const u32 *)c->page)[word]};
    }
  }
  return n;
}

void bitmap_clear(struct cpu *c) { fill32(c->bitmap, 0, PAGE / 4); }

void bitmap_set(struct cpu *c, u32 first, u32 last, u32 access) {
  u8 *half = c->bitmap + (first >= 0xc0000000u ? 0x400 : 0);
  for (u64 msr = first; msr <= last; msr++) {
    u32 index = (u32)msr & 0x1fff;
    if (access & RANGE_READ) half[index / 8] |= (u8)(1u << index % 8);
    if (access & RANGE_WRITE) half[0x800 + index / 8] |= (u8)(1u << index % 8);
  }
}
