/* What crosses between the runner and Linux in the emulated machine: sectors of its disk. Twin of
 * backends/emulated/disk.py, which a test holds against this header. Little-endian.
 *
 * In: one struct host_work at WORK_SECTOR; each batch (struct batch and its records) and the probe begin in
 * sectors of their own. Out: from `results` on one struct host_result for each start of the launcher, then its
 * frames and what it said; the next one begins in the next sector. */
#ifndef DISK_H
#define DISK_H

#include "../../probe/wire.h"

#define SECTOR 512
#define WORK_SECTOR 1
#define WORK_MAGIC 0x57413258u   /* X2AW */
#define RESULT_MAGIC 0x52413258u /* X2AR */
#define MOST_BATCHES 252

struct host_batch {
  u32 sector;
  u32 bytes;
};

struct host_work {
  u32 magic;
  u32 batches;
  u32 probe;       /* its sector; it is what follows BATCH_ROOM in the ROM */
  u32 probe_bytes;
  u32 results;     /* the first sector */
  u32 last;        /* the last sector that results may fill */
  u32 patience; /* seconds within which a machine must begin another case */
  u32 aligned;  /* processors that are to have an aligned posted-interrupt descriptor; 0: no APICv */
  struct host_batch batch[MOST_BATCHES];
};

struct host_result {
  u32 magic;
  u32 batch;
  u32 first;  /* of the batch's cases */
  u32 count;  /* that the probe was given */
  u32 begun;  /* that it began */
  u32 status; /* the launcher's, as wait(2) gives it */
  u32 frames; /* bytes */
  u32 text;   /* bytes of what the launcher said */
};

#endif
