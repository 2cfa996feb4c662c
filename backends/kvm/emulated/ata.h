/* The first ATA disk, sector by sector, by programmed I/O. */
#ifndef ATA_H
#define ATA_H

#include "../../probe/wire.h"

/* `bytes` need not be whole sectors on reading; what is written are whole ones. */
void ata_read(void *to, u32 sector, u32 bytes);
void ata_write(const void *from, u32 sector, u32 bytes);

#endif
