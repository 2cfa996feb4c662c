#include "page.h"
#include "machine.h"
#include "processor.h"

#define VTPR 0x80
#define BLOCK 512 /* bytes that are compared at once */

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

static u32 value_under(const struct cpu *c, u32 word) {
  return word == VTPR / 4 ? c->image_value & 0xff : c->image_value;
}

/* Takes the words that a block put over its fill away again. */
static void uncover(struct cpu *c, const struct wire_word *words, u32 count) {
  const u32 *template = c->image_fill == FILL_VALUE ? 0 : templates[c->image_fill % 3];
  u32 *image = (u32 *)c->image, *page = (u32 *)c->page;
  for (u32 i = 0; i < count; i++) {
    u32 word = words[i].offset % PAGE / 4;
    image[word] = page[word] = template ? template[word] : value_under(c, word);
  }
}

static void cover(struct cpu *c, const struct wire_word *words, u32 count) {
  u32 *image = (u32 *)c->image, *page = (u32 *)c->page;
  for (u32 i = 0; i < count; i++) {
    u32 word = words[i].offset % PAGE / 4;
    image[word] = page[word] = words[i].value;
  }
}

static const struct wire_word *words_of(const struct wire_vcpu *b) {
  return (const struct wire_word *)((const struct wire_item *)(b + 1) + b->items);
}

static void set_ranges(struct cpu *c, const struct wire_vcpu *b, int exits) {
  const struct wire_range *r = (const struct wire_range *)(words_of(b) + b->words);
  for (u32 i = 0; i < b->ranges; i++) bitmap_set(c, r[i].first, r[i].last, r[i].access, exits);
}

void pages_set(struct cpu *c, const struct wire_vcpu *before, const struct wire_vcpu *b) {
  if (!before || b->fill != c->image_fill || b->fill_value != c->image_value)
    fill(c, b->fill, b->fill_value);
  else
    uncover(c, words_of(before), before->words);
  cover(c, words_of(b), b->words);
  if (!before || c->bitmap_rewritten)
    bitmap_clear(c);
  else
    set_ranges(c, before, 0);
  set_ranges(c, b, 1);
  c->bitmap_rewritten = 0;
}

/* zmm0 |= zmm1 ^ the same 64 bytes of the other page */
#define COMPARE_64(n)                                                                                        \
  "vmovdqa64 " #n "*64(%1), %%zmm1\nvpxorq " #n "*64(%2), %%zmm1, %%zmm1\nvporq %%zmm1, %%zmm0, %%zmm0\n"

static u64 differs(const u8 *now, const u8 *was) {
  u64 different;
  asm volatile("vpxorq %%zmm0, %%zmm0, %%zmm0\n" COMPARE_64(0) COMPARE_64(1) COMPARE_64(2) COMPARE_64(3)
                   COMPARE_64(4) COMPARE_64(5) COMPARE_64(6)
                       COMPARE_64(7) "vptestmq %%zmm0, %%zmm0, %%k1\nkmovw %%k1, %k0"
               : "=r"(different)
               : "r"(now), "r"(was)
               : "memory");
  return different;
}

u32 page_changes(struct cpu *c, struct wire_word *to) {
  int wide = processor_has_wide_registers();
  u32 n = 0;
  for (u32 at = 0; at < PAGE; at += BLOCK) {
    const u64 *now = (const u64 *)(c->page + at), *was = (const u64 *)(c->image + at);
    u64 left = BLOCK / 8;
    if (wide && !differs(c->page + at, c->image + at)) continue;
    while (left) {
      u8 same;
      asm volatile("repe cmpsq" : "+S"(now), "+D"(was), "+c"(left), "=@ccz"(same)::"memory");
      if (same) break;
      for (u32 half = 0; half < 2; half++) {
        u32 *place = (u32 *)(now - 1) + half, set = ((const u32 *)(was - 1))[half];
        if (*place == set) continue;
        to[n++] = (struct wire_word){(u32)((u8 *)place - c->page), *place};
        *place = set;
      }
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
