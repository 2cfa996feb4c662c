#include "ata.h"

#include <string.h>
#include <sys/io.h>

#define DATA 0x1f0
#define COUNT 0x1f2
#define ADDRESS 0x1f3
#define DRIVE 0x1f6
#define COMMAND 0x1f7
#define CONTROL 0x3f6
#define NO_INTERRUPT 2
#define LBA 0xe0
#define BUSY 0x80
#define DATA_REQUEST 0x08
#define READ_SECTORS 0x20
#define WRITE_SECTORS 0x30
#define SECTOR 512u
#define MOST_SECTORS 64u /* of one command */

static void begin(u8 command, u32 sector, u32 count) {
  outb(NO_INTERRUPT, CONTROL);
  outb((u8)count, COUNT);
  for (u32 i = 0; i < 3; i++) outb((u8)(sector >> 8 * i), (u16)(ADDRESS + i));
  outb((u8)(LBA | sector >> 24), DRIVE);
  outb(command, COMMAND);
}

static void wait_for_data(void) {
  while ((inb(COMMAND) & (BUSY | DATA_REQUEST)) != DATA_REQUEST) {
  }
}

void ata_read(void *to, u32 sector, u32 bytes) {
  u8 rest[SECTOR], *at = to;
  u32 sectors = (bytes + SECTOR - 1) / SECTOR;
  for (u32 i = 0; i < sectors; i++) {
    u32 left = bytes - i * SECTOR;
    if (i % MOST_SECTORS == 0)
      begin(READ_SECTORS, sector + i, sectors - i < MOST_SECTORS ? sectors - i : MOST_SECTORS);
    wait_for_data();
    insw(DATA, left < SECTOR ? rest : at, SECTOR / 2);
    if (left < SECTOR) memcpy(at, rest, left);
    at += SECTOR;
  }
}

void ata_write(const void *from, u32 sector, u32 bytes) {
  const u8 *at = from;
  u32 sectors = bytes / SECTOR;
  for (u32 i = 0; i < sectors; i++, at += SECTOR) {
    if (i % MOST_SECTORS == 0)
      begin(WRITE_SECTORS, sector + i, sectors - i < MOST_SECTORS ? sectors - i : MOST_SECTORS);
    wait_for_data();
    outsw(DATA, at, SECTOR / 2);
  }
  while (inb(COMMAND) & BUSY) {
  }
}
