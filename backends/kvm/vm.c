/* The machine: RAM, the ROM below 4 GiB, local APICs in the kernel, one CPUID for each processor. */
#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HUGE_PAGE ((size_t)2 << 20)
#define BOOT_BLOCK 0x10000u /* the ROM's last 64 KiB, which also lie below 1 MiB */
#define TSS_ADDRESS 0xfefd0000u
#define IDENTITY_MAP_ADDRESS 0xfefcf000u
#define IOAPIC_PINS 24
#define CPUID_ROOM 256

#define FEATURE_TSC_DEADLINE (1u << 24)
#define FEATURE_HTT (1u << 28)
#define FEATURE_HYPERVISOR (1u << 31)
#define LEVEL_SMT 1u
#define LEVEL_CORE 2u
#define CORE_SHIFT 3 /* the APIC ID's bits that tell MAX_CPUS cores apart */

static struct {
  struct kvm_cpuid2 head;
  struct kvm_cpuid_entry2 entries[CPUID_ROOM];
} supported, own;

static u32 processors_here(void) {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) ? 1 : (u32)CPU_COUNT(&set);
}

static void map_rom(struct vm *vm, const char *image) {
  struct batch *batch;
  struct stat st;
  int fd = open(image, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &st)) cannot("%s: %s", image, strerror(errno));
  if ((size_t)st.st_size != ROM_SIZE)
    cannot("%s: %lld bytes, a ROM image has %zu", image, (long long)st.st_size, ROM_SIZE);
  vm->rom = mmap(NULL, ROM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  if (vm->rom == MAP_FAILED) cannot("%s: %s", image, strerror(errno));
  close(fd);
  batch = (struct batch *)vm->rom;
  if (batch->magic != BATCH_MAGIC || batch->version != WIRE_VERSION)
    cannot("%s: begins with no batch of this version", image);
  if (batch->cpus < 1 || batch->cpus > MAX_CPUS)
    cannot("%s: wants %u processors, there can be 1 to %d", image, batch->cpus, MAX_CPUS);
  vm->cpus = batch->cpus;
  batch->yields = vm->cpus > processors_here();
  vm->stepped = batch->door == DOOR_STEPPED;
  vm->room = batch->limit < RECORDS_ROOM ? batch->limit : RECORDS_ROOM;
}

/* One huge page after another: where KVM runs on an emulated processor, each small page is an exit. */
static void map_ram(struct vm *vm) {
  u8 *place = mmap(NULL, RAM_SIZE + HUGE_PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) cannot("no memory for the machine: %s", strerror(errno));
  vm->ram = (u8 *)(((u64)place + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
  (void)madvise(vm->ram, RAM_SIZE, MADV_HUGEPAGE); /* a kernel without them does as well */
  memcpy(vm->ram + (1 << 20) - BOOT_BLOCK, vm->rom + ROM_SIZE - BOOT_BLOCK, BOOT_BLOCK);
}

/* Frames are in the file as soon as the probe has written them, whatever becomes of this process. */
static void map_records(struct vm *vm, const char *records) {
  size_t size = (vm->room + 0xfff) & ~(size_t)0xfff;
  int error, fd = open(records, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) cannot("%s: %s", records, strerror(errno));
  error = posix_fallocate(fd, 0, (off_t)size);
  if (error) cannot("%s: %zu bytes: %s", records, size, strerror(error));
  if (mmap(vm->ram + RECORDS_BASE, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
    cannot("%s: %s", records, strerror(errno));
  close(fd);
}

static void add_slot(struct vm *vm, u32 slot, u64 address, u64 size, const u8 *memory) {
  struct kvm_userspace_memory_region region = {slot, 0, address, size, (u64)memory};
  if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region)) cannot("KVM takes no memory: %s", strerror(errno));
}

static void enable(struct vm *vm, u32 capability, u64 argument, const char *what) {
  struct kvm_enable_cap cap = {.cap = capability, .args = {argument}};
  if (ioctl(vm->fd, KVM_ENABLE_CAP, &cap)) cannot("this KVM has no %s: %s", what, strerror(errno));
}

static void create_machine(struct vm *vm) {
  u64 identity_map = IDENTITY_MAP_ADDRESS;
  vm->fd = ioctl(vm->kvm, KVM_CREATE_VM, 0);
  if (vm->fd < 0) cannot("KVM creates no machine: %s", strerror(errno));
  if (ioctl(vm->fd, KVM_SET_TSS_ADDR, TSS_ADDRESS) || ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map))
    cannot("KVM takes no room for real mode: %s", strerror(errno));
  enable(vm, KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS, "local APIC without the other interrupt chips");
  enable(vm, KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
         "x2APIC with 32-bit IDs");
  enable(vm, KVM_CAP_DISABLE_QUIRKS, KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_LAPIC_MMIO_HOLE,
         "way to switch its quirks off");
  add_slot(vm, 0, 0, RAM_SIZE, vm->ram);
  add_slot(vm, 1, ((u64)1 << 32) - ROM_SIZE, ROM_SIZE, vm->rom);
}

static void add_leaf(u32 leaf, u32 index, u32 shift, u32 count, u32 level, u32 apic_id) {
  struct kvm_cpuid_entry2 e = {.function = leaf, .index = index, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX};
  if (own.head.nent == CPUID_ROOM) cannot("KVM reports more than %d CPUID leaves", CPUID_ROOM);
  e.eax = shift;
  e.ebx = count;
  e.ecx = level << 8 | index;
  e.edx = apic_id;
  own.entries[own.head.nent++] = e;
}

static void add_topology(u32 leaf, u32 cpus, u32 apic_id) {
  add_leaf(leaf, 0, 0, 1, LEVEL_SMT, apic_id);
  add_leaf(leaf, 1, CORE_SHIFT, cpus, LEVEL_CORE, apic_id);
  add_leaf(leaf, 2, 0, 0, 0, apic_id);
}

/* What KVM supports, with this processor's APIC ID in leaves 1, 0BH and 1FH. */
static void make_cpuid(const struct vm *vm, u32 apic_id) {
  int deadline = ioctl(vm->kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  u32 highest = 0;
  own.head.nent = 0;
  for (u32 i = 0; i < supported.head.nent; i++) {
    struct kvm_cpuid_entry2 e = supported.entries[i];
    if (e.function == 0) highest = e.eax;
    if (e.function == 0xb || e.function == 0x1f) continue;
    if (e.function == 1) {
      e.ebx = (e.ebx & 0xffff) | vm->cpus << 16 | apic_id << 24;
      e.edx = vm->cpus > 1 ? e.edx | FEATURE_HTT : e.edx & ~FEATURE_HTT;
      e.ecx |= FEATURE_HYPERVISOR;
      if (deadline) e.ecx |= FEATURE_TSC_DEADLINE;
    }
    own.entries[own.head.nent++] = e;
  }
  if (highest >= 0xb) add_topology(0xb, vm->cpus, apic_id);
  if (highest >= 0x1f) add_topology(0x1f, vm->cpus, apic_id);
}

static void create_vcpu(struct vm *vm, u32 index, size_t run_size) {
  struct vcpu *v = &vm->vcpus[index];
  v->vm = vm;
  v->index = index;
  v->fd = ioctl(vm->fd, KVM_CREATE_VCPU, index);
  if (v->fd < 0) cannot("KVM creates no processor %u: %s", index, strerror(errno));
  v->run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
  if (v->run == MAP_FAILED) cannot("no memory for processor %u: %s", index, strerror(errno));
  make_cpuid(vm, index);
  if (ioctl(v->fd, KVM_SET_CPUID2, &own)) cannot("KVM does not take its own CPUID: %s", strerror(errno));
}

void vm_open(struct vm *vm, int want_vmx) {
  vm->kvm = host_open();
  supported.head.nent = CPUID_ROOM;
  if (ioctl(vm->kvm, KVM_GET_SUPPORTED_CPUID, &supported))
    cannot("KVM reports no CPUID: %s", strerror(errno));
  if (want_vmx) host_want_vmx(&supported.head);
}

void vm_create(struct vm *vm, const char *image, const char *records) {
  int run_size = ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_size < 0) cannot("KVM has no room for processors: %s", strerror(errno));
  map_rom(vm, image);
  map_ram(vm);
  if (records) map_records(vm, records);
  create_machine(vm);
  for (u32 i = 0; i < vm->cpus; i++) create_vcpu(vm, i, (size_t)run_size);
}
