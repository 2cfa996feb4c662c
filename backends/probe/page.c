#include "page.h"
#include "machine.h"

#define VTPR 0x80

u8 stale_page[PAGE] __attribute__((aligned(PAGE)));
u8 apic_access_page[PAGE] __attribute__((aligned(PAGE)));
extern const u32 tagged_words[PAGE / 4];
static u32 templates[3][PAGE / 4]; /* FILL_ZERO, FILL_ONES, FILL_TAGGED */

void pages_init(void) {
  fill32(templates[FILL_ONES], 0xffffffff, PAGE / 4);
  copy64(templates[FILL_TAGGED], tagged_words, PAGE / 8);
  for (u32 fill = 0; fill < 3; fill++) templates[fill][VTPR / 4] &= 0xff;
  pages_restore();
}

void pages_restore(void) {
  fill32(stale_page, STALE_WORD, PAGE / 4);
  fill32(apic_access_page, 0, PAGE / 4);
}

static void fill(struct cpu *c, u32 how, u32 value) {
  u32 *image = (u32 *)c->image;
  if (how == FILL_VALUE) {
    fill32(image, value, PAGE / 4);
    image[VTPR / 4] &= 0xff;
  } else {
    copy64(image, templates[how % 3], PAGE / 8);
  }
  copy64(c->page, image, PAGE / 8);
  c->image_fill = how;
  c->image_value = value;
}

static u32 under(const struct cpu *c, u32 word) {
  if (c->image_fill != FILL_VALUE) return templates[c->image_fill % 3][word];
  return word == VTPR / 4 ? c->image_value & 0xff : c->image_value;
}

static void put(struct cpu *c, u32 word, u32 value) {
  ((u32 *)c->image)[word] = ((u32 *)c->page)[word] = value;
}

static const struct wire_word *words_of(const struct wire_vcpu *b) {
  return (const struct wire_word *)((const struct wire_item *)(b + 1) + b->items);
}

static void set_ranges(struct cpu *c, const struct wire_vcpu *b, int exits) {
  const struct wire_range *r = (const struct wire_range *)(words_of(b) + b->words);
  for (u32 i = 0; i < b->ranges; i++) bitmap_set(c, r[i].first, r[i].last, r[i].access, exits);
}

void pages_set(struct cpu *c, const struct wire_vcpu *before, const struct wire_vcpu *b) {
  const struct wire_word *words = words_of(b);
  if (!before || b->fill != c->image_fill || b->fill_value != c->image_value) {
    fill(c, b->fill, b->fill_value);
  } else {
    const struct wire_word *old = words_of(before);
    for (u32 i = 0; i < before->words; i++) {
      u32 word = old[i].offset % PAGE / 4;
      put(c, word, under(c, word));
    }
  }
  for (u32 i = 0; i < b->words; i++) put(c, words[i].offset % PAGE / 4, words[i].value);
  if (!before || c->bitmap_rewritten)
    bitmap_clear(c);
  else
    set_ranges(c, before, 0);
  set_ranges(c, b, 1);
  c->bitmap_rewritten = 0;
}

u32 page_changes(struct cpu *c, struct wire_word *to) {
  const u64 *now = (const u64 *)c->page, *was = (const u64 *)c->image, *from = now;
  u64 left = PAGE / 8;
  u32 n = 0;
  while (left) {
    u8 same;
    asm volatile("repe cmpsq" : "+S"(now), "+D"(was), "+c"(left), "=@ccz"(same)::"memory");
    if (same) break;
    for (u32 half = 0; half < 2; half++) {
      u32 word = (u32)(now - 1 - from) * 2 + half;
      u32 *place = (u32 *)c->page + word, set = ((const u32 *)c->image)[word];
      if (*place == set) continue;
      to[n++] = (struct wire_word){word * 4, *place};
      *place = set;
    }
  }
  return n;
}

void bitmap_clear(struct cpu *c) { fill32(c->bitmap, 0, PAGE / 4); }

static void bitmap_bit(u8 *byte, u32 bit, int exits) {
  *byte = (u8)(exits ? *byte | 1u << bit : *byte & ~(1u << bit));
}

void bitmap_set(struct cpu *c, u32 first, u32 last, u32 access, int exits) {
  u8 *half = c->bitmap + (first >= 0xc0000000u ? 0x400 : 0);
  for (u64 msr = first; msr <= last; msr++) {
    u32 index = (u32)msr & 0x1fff;
    if (index % 8 == 0 && msr + 7 <= last) { /* a whole byte */
      if (access & RANGE_READ) half[index / 8] = exits ? 0xff : 0;
      if (access & RANGE_WRITE) half[0x800 + index / 8] = exits ? 0xff : 0;
      msr += 7;
      continue;
    }
    if (access & RANGE_READ) bitmap_bit(half + index / 8, index % 8, exits);
    if (access & RANGE_WRITE) bitmap_bit(half + 0x800 + index / 8, index % 8, exits);
  }
}
