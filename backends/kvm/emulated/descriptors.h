/* Bochs 3.0 enters a guest only if its posted-interrupt descriptor lies on a page boundary, and KVM's is a
 * member of the object that it takes from the slab allocator for each virtual processor. */
#ifndef DESCRIPTORS_H
#define DESCRIPTORS_H

#include "../../probe/wire.h"

/* From now on, so many virtual processors at once have aligned descriptors. Returns how many objects that took
 * to try; 0, with errno, where it is not to be had. */
u32 descriptors_align(u32 wanted);

#endif
