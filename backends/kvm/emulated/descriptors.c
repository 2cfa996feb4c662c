/* Objects whose descriptor is misaligned are taken and kept, so that the next virtual processors get the others:
 * the slab allocator gives first what was freed last. */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define DEVICE "/dev/kvm"
#define IOAPIC_PINS 24
#define MOST_TRIED 160

struct object {
  int machine, processor;
  int aligned;
};

static struct object objects[MOST_TRIED];
static u32 tried;

static int enters(int processor, size_t run_size) {
  struct kvm_run *run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, processor, 0);
  int entered;
  if (run == MAP_FAILED) return 0;
  entered = !ioctl(processor, KVM_RUN, 0) && run->exit_reason != KVM_EXIT_FAIL_ENTRY;
  munmap(run, run_size);
  return entered;
}

/* A machine without memory: if VM entry succeeds, its first fetch ends it. Returns 0 where KVM makes none. */
static int take(int kvm, struct object *o) {
  struct kvm_enable_cap local_apic = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {IOAPIC_PINS}};
  int run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  o->machine = ioctl(kvm, KVM_CREATE_VM, 0);
  if (run_size < 0 || o->machine < 0 || ioctl(o->machine, KVM_ENABLE_CAP, &local_apic)) return 0;
  o->processor = ioctl(o->machine, KVM_CREATE_VCPU, 0);
  if (o->processor < 0) return 0;
  o->aligned = enters(o->processor, (size_t)run_size);
  return 1;
}

static void release_aligned(u32 first) {
  for (u32 i = first; i < tried; i++)
    if (objects[i].aligned) close(objects[i].processor), close(objects[i].machine);
}

u32 descriptors_align(u32 wanted) {
  int kvm = open(DEVICE, O_RDWR | O_CLOEXEC);
  u32 first, aligned;
  if (kvm < 0) return 0;
  do { /* until one round finds what the round before has released, and nothing else */
    for (first = tried, aligned = 0; aligned < wanted; aligned += (u32)objects[tried++].aligned) {
      errno = ENOSPC;
      if (tried == MOST_TRIED || !take(kvm, &objects[tried])) return 0;
    }
    release_aligned(first);
  } while (tried - first > wanted);
  close(kvm);
  return tried;
}
