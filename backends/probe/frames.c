#include "frames.h"
#include "machine.h"

#define PORT_E9 0xe9
#define PORT_SHUTDOWN 0x8900
#define COM1 0x3f8
#define COM1_INTERRUPTS 0x3f9
#define COM1_FIFO 0x3fa /* written; read, it identifies interrupts, and in bits 7:6 the FIFO */
#define COM1_LINE 0x3fb
#define COM1_MODEM 0x3fc
#define COM1_STATUS 0x3fd
#define STATUS_EMPTY 0x20
#define LAST_FRAME 64 /* room kept for END */

static u8 *const records = (u8 *)(u64)RECORDS_BASE;
static u8 *at, *frame_start, *limit;
static u32 door;
static u64 burst = 1; /* bytes that COM1 takes when it is empty */
extern const u32 crc_tables[8][256];

u32 crc32(u32 crc, const void *data, u64 length) {
  const u8 *p = data;
  crc = ~crc;
  for (; length >= 8; length -= 8, p += 8) {
    u64 word = *(const u64 *)p ^ crc;
    crc = crc_tables[7][word & 0xff] ^ crc_tables[6][word >> 8 & 0xff] ^ crc_tables[5][word >> 16 & 0xff] ^
          crc_tables[4][word >> 24 & 0xff] ^ crc_tables[3][word >> 32 & 0xff] ^
          crc_tables[2][word >> 40 & 0xff] ^ crc_tables[1][word >> 48 & 0xff] ^ crc_tables[0][word >> 56];
  }
  while (length--) crc = crc >> 8 ^ crc_tables[0][(crc ^ *p++) & 0xff];
  return ~crc;
}

/* 115200 baud, 8 bits, no parity; sixteen bytes at a time where there is a FIFO. */
static void serial_init(void) {
  out8(COM1_INTERRUPTS, 0);
  out8(COM1_LINE, 0x80);
  out8(COM1, 1);
  out8(COM1_INTERRUPTS, 0);
  out8(COM1_LINE, 3);
  out8(COM1_FIFO, 7);
  out8(COM1_MODEM, 3);
  if ((in8(COM1_FIFO) & 0xc0) == 0xc0) burst = 16;
}

static void serial_send(const u8 *data, u64 length) {
  while (length) {
    u64 now = length < burst ? length : burst;
    while (!(in8(COM1_STATUS) & STATUS_EMPTY)) asm volatile("pause");
    out_string(COM1, data, now);
    data += now;
    length -= now;
  }
}

static int is_stream(void) { return door == DOOR_E9 || door == DOOR_SERIAL; }

static int is_shared(void) { return door == DOOR_SHARED || door == DOOR_STEPPED; }

void frames_init(u32 how, u32 room) {
  door = how;
  at = records + (is_shared() ? sizeof(u64) : 0);
  limit = records + (room < RECORDS_ROOM ? room : RECORDS_ROOM);
  if (door == DOOR_SERIAL) serial_init();
}

void frame_begin(u32 seq) {
  struct frame *f = (struct frame *)at;
  frame_start = at;
  f->magic = FRAME_MAGIC;
  f->seq = seq;
  at += sizeof(*f);
}

void *frame_reserve(u64 length) {
  void *place = at;
  at += length;
  return place;
}

void frame_append(const void *data, u64 length) {
  copy64(at, data, (length + 7) / 8);
  at += length;
}

int frame_end(void) {
  struct frame *f = (struct frame *)frame_start;
  u8 *payload = frame_start + sizeof(*f);
  u8 *end = at;
  f->length = (u32)(end - payload);
  if (end + LAST_FRAME > limit && f->length > sizeof(struct wire_end)) {
    at = frame_start;
    return 0;
  }
  f->crc = crc32(crc32(0, &f->seq, 8), payload, f->length);
  if (door == DOOR_E9) out_string(PORT_E9, frame_start, (u64)(end - frame_start));
  if (door == DOOR_SERIAL) serial_send(frame_start, (u64)(end - frame_start));
  if (is_stream()) at = frame_start;
  return 1;
}

void progress(void) {
  if (door == DOOR_MEMORY) out8(PORT_E9, PROGRESS);
  if (is_shared()) ++*(volatile u64 *)records;
}

void announce(u8 what) {
  if (door == DOOR_STEPPED) out8(PORT_E9, what);
}

/* The debugger of an emulator takes the frames at the magic break; elsewhere it is a NOP. */
void leave(void) {
  if (door == DOOR_MEMORY) asm volatile("xchgw %%bx, %%bx" ::: "memory");
  out_string(PORT_SHUTDOWN, "Shutdown", 8);
  for (;;) asm volatile("cli; hlt");
}

void fail(const char *why) {
  u64 length = 0;
  while (why[length]) length++;
  if (is_stream()) at = records;
  frame_begin(0);
  *(u32 *)frame_reserve(4) = FRAME_ERROR;
  memcpy(frame_reserve(length), why, length);
  frame_end();
  leave();
}
