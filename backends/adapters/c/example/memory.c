/* Physical memory: 1 MByte, cleared between cases where it was touched. Elsewhere loads give ones and
 * stores go nowhere. */
#include "machine.h"

#define PAGES (MEMORY_SIZE / X2A_PAGE)

static u8 ram[MEMORY_SIZE];
static bool touched[PAGES];

void memory_clear(void) {
  for (unsigned i = 0; i < PAGES; i++) {
    if (!touched[i]) continue;
    memset(ram + i * X2A_PAGE, 0, X2A_PAGE);
    touched[i] = false;
  }
}

u8 *memory(u64 address, unsigned length) {
  static u8 nothing[X2A_PAGE];
  u64 at = address - MEMORY_BASE;
  if (at >= MEMORY_SIZE || at + length > MEMORY_SIZE) {
    memset(nothing, 0xff, length);
    return nothing;
  }
  touched[at / X2A_PAGE] = touched[(at + length - 1) / X2A_PAGE] = true;
  return ram + at;
}

u32 load32(u64 address) {
  u32 value;
  memcpy(&value, memory(address, sizeof value), sizeof value);
  return value;
}

u64 load64(u64 address) {
  u64 value;
  memcpy(&value, memory(address, sizeof value), sizeof value);
  return value;
}

void store32(u64 address, u32 value) { memcpy(memory(address, sizeof value), &value, sizeof value); }

void store64(u64 address, u64 value) { memcpy(memory(address, sizeof value), &value, sizeof value); }

void memory_put(u64 address, const void *bytes, unsigned length) {
  memcpy(memory(address, length), bytes, length);
}
