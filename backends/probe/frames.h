/* Frames out of the machine, and the checksum in both directions. */
#ifndef FRAMES_H
#define FRAMES_H

#include "wire.h"

void frames_init(u32 door, u32 limit);
u32 crc32(u32 crc, const void *data, u64 length);

/* A frame is built in place: begin, append, end. end returns 0 where it did not fit. */
void frame_begin(u32 seq);
void frame_append(const void *data, u64 length);
void *frame_reserve(u64 length);
int frame_end(void);

void progress(void);
void announce(u8 what);
void fail(const char *why) __attribute__((noreturn));
void leave(void) __attribute__((noreturn));

#endif
