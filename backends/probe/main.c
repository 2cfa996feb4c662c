/* The probe: starts the processors, runs each case of the batch, and sends one frame a case. */
#include "apic.h"
#include "descriptor.h"
#include "frames.h"
#include "guest.h"
#include "machine.h"
#include "page.h"
#include "processor.h"
#include "reach.h"
#include "vmcs.h"
#include "vmm.h"
#include "vmx.h"

struct cpu cpus[MAX_CPUS];
/* Kept: the bootstrap processor is already on its own. */
u8 boot_stacks[MAX_CPUS + 1][1 << BOOT_STACK_SHIFT] KEPT __attribute__((aligned(PAGE)));

static const struct batch *batch;
static volatile u32 ready, numbered;
static volatile u32 came[MAX_CPUS]; /* by ticket: APIC ID + 1 */
static volatile u32 dirty;

/* One case on several processors: each phase begins when all have finished the one before. */
static const struct wire_case *volatile shared_case;
static volatile u32 generation, arrived, phase;

static void send_begin(void) {
  struct wire_begin *b;
  struct cpuid vendor = cpuid(0), features = cpuid(1);
  frame_begin(0);
  b = frame_reserve(sizeof(*b));
  memset(b, 0, sizeof(*b));
  b->kind = FRAME_BEGIN;
  b->count = batch->count - batch->first;
  b->cpus = ready + 1;
  b->vmx = vmx_state;
  b->signature = features.eax;
  b->features = features.ecx;
  b->physical_width = cpuid(0x80000008).eax & 0xff;
  b->apic_version = *(volatile u32 *)0xfee00030;
  memcpy(b->vendor, (u32[]){vendor.ebx, vendor.edx, vendor.ecx}, 12);
  for (u32 i = 0; i < CAPABILITIES; i++)
    if (vmx_state == VMX_ABSENT || try_rdmsr(CAPABILITY_FIRST + i, &b->capability[i]))
      b->capability[i] = ABSENT;
  (void)frame_end();
}

static void send_end(u32 done, u32 why) {
  struct wire_end *e;
  frame_begin(done);
  e = frame_reserve(sizeof(*e));
  *e = (struct wire_end){FRAME_END, done, why, 0};
  (void)frame_end();
}

static void append_result(struct cpu *c) {
  struct wire_final *f = frame_reserve(sizeof(*f));
  u64 events = (u64)(c->log - c->log_base);
  memset(f, 0, sizeof(*f));
  f->lost = c->log > c->log_end;
  if (f->lost) events = 0;
  f->events = (u32)events;
  frame_append(c->log_base, events);
  f->words = (u16)page_changes(c, frame_reserve(0));
  (void)frame_reserve(f->words * sizeof(struct wire_word));
  if (c->reports_reset) {
    f->registers = (u16)apic_after_reset(c, frame_reserve(0));
    (void)frame_reserve(f->registers * sizeof(struct wire_register));
  } else {
    f->registers = (u16)c->registers;
    frame_append(c->changed, c->registers * sizeof(struct wire_register));
  }
  f->status = c->status;
  f->activity = c->activity;
  f->blocking = c->blocking;
  f->pid = c->record->level == LEVEL_VMX && descriptor_is_used(c);
  if (f->pid) frame_append(c->descriptor, 64);
  f->size = (u32)((u8 *)frame_reserve(0) - (u8 *)f);
}

static const struct wire_vcpu *block_of(const struct wire_case *record, u32 index) {
  const u8 *at = (const u8 *)(record + 1);
  while (index--) at += ((const struct wire_vcpu *)at)->size;
  return (const struct wire_vcpu *)at;
}

/* Waits until `count` processors have come here. */
static void meet(u32 count) {
  u32 now = phase;
  if (__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == count) {
    arrived = 0;
    phase = now + 1;
  } else {
    while (phase == now) asm volatile("pause");
  }
}

static u32 run_case(struct cpu *c, const struct wire_case *record, int read_all) {
  u32 vcpus = record->vcpus;
  int mode_reached = apic_set_mode(c, record->mode);
  if (!mode_reached) dirty = 2;
  if (mode_reached && c->expected_mode != record->mode) {
    c->expected_mode = record->mode;
    apic_rebase(c);
  }
  if (c->index == 0 && vcpus > 1) guest_clear_barriers();
  if (!vmm_prepare(c, record, block_of(record, c->index))) fail("a case does not fit its room");
  if (vcpus > 1) meet(vcpus);
  if (dirty == 2) return END_MODE;
  vmm_run(c);
  if (vcpus > 1) meet(vcpus); /* until then another may send an IPI */
  c->reach = under_hypervisor && !read_all ? reach_of(c) : REACH_ALL;
  c->registers = apic_changes(c, c->changed);
  if (vcpus > 1) meet(vcpus);
  return END_COMPLETE;
}

static void clean_up(struct cpu *c) {
  unblock_nmis();
  if (c->block->guest & GUEST_INIT) dirty = 1; /* outside VMX operation now */
  /* A VM entry to that state that fails late leaves SMIs blocked on Bochs, whatever is entered next. A hypervisor
   * below enters it by software. */
  if (!under_hypervisor && c->record->level == LEVEL_VMX && c->activity == ACTIVITY_WAIT_FOR_SIPI) dirty = 1;
  if (c->registers)
    dirty |= !apic_restore(c);
  else if (c->reach & REACH_ESR)
    apic_clear_errors(c);
  apic_mask_uncounted(c);
  if (c->shared_pages) pages_restore();
}

static void other_processor(struct cpu *c) {
  u32 seen = 0;
  for (;;) {
    while (generation == seen) asm volatile("pause");
    seen = generation;
    if (c->index >= shared_case->vcpus) continue;
    if (run_case(c, shared_case, 1) == END_COMPLETE) {
      meet(shared_case->vcpus); /* results are read before anything is cleaned up */
      clean_up(c);
    }
    meet(shared_case->vcpus);
  }
}

static const struct wire_case *after(const struct wire_case *record) {
  return (const struct wire_case *)((const u8 *)record + record->size);
}

static u32 run_batch(u32 *done) {
  const struct wire_case *record = (const struct wire_case *)(batch + 1);
  struct cpu *c = &cpus[0];
  u32 count = batch->count - batch->first;
  for (u32 i = 0; i < batch->first; i++) record = after(record);
  for (*done = 0; *done < count; ++*done) {
    u32 why;
    progress();
    if (record->vcpus > 1) {
      shared_case = record;
      generation++;
    }
    why = run_case(c, record, *done % CASES_UNREAD == CASES_UNREAD - 1 || *done + 1 == count);
    if (why != END_COMPLETE) return why;
    frame_begin(record->seq);
    *(struct wire_result *)frame_reserve(sizeof(struct wire_result)) =
        (struct wire_result){FRAME_CASE, record->vcpus};
    for (u32 i = 0; i < record->vcpus; i++) append_result(&cpus[i]);
    if (!frame_end()) return END_FULL;
    if (record->vcpus > 1) meet(record->vcpus);
    clean_up(c);
    if (record->vcpus > 1) meet(record->vcpus);
    if (dirty) {
      ++*done;
      return END_DIRTY;
    }
    record = after(record);
  }
  return END_COMPLETE;
}

static void check_batch(void) {
  if (batch->magic != BATCH_MAGIC) fail("no batch in the image");
  if (batch->version != WIRE_VERSION || batch->header != sizeof(struct batch))
    fail("the batch has another wire version");
  if (batch->size < sizeof(struct batch) || batch->size > BATCH_ROOM) fail("the batch has a wrong size");
  if (batch->cpus < 1 || batch->cpus > MAX_CPUS) fail("the batch wants a wrong number of processors");
  if (batch->first > batch->count) fail("the batch is over");
  if (!batch->first && crc32(0, batch + 1, batch->size - sizeof(struct batch)) != batch->crc)
    fail("the batch's checksum is wrong");
}

static void start_others(void) {
  if (batch->cpus == 1) return;
  apic_start_others();
  for (u32 ticket = 1; ticket < batch->cpus; ticket++)
    while (!came[ticket]) asm volatile("pause");
  numbered = 1;
  while (ready < batch->cpus - 1) asm volatile("pause");
}

/* Processors are numbered by their APIC IDs, not in the order in which they came. */
static void begin_other(u32 ticket) {
  u32 index = 1;
  came[ticket] = (cpuid(1).ebx >> 24) + 1;
  while (!numbered) asm volatile("pause");
  for (u32 i = 1; i < batch->cpus; i++) index += came[i] < came[ticket];
  processor_init(&cpus[index], index);
  __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
  other_processor(&cpus[index]);
}

void start(u32 ticket);
void start(u32 ticket) {
  u32 done, why;
  if (ticket > 0) {
    if (ticket < batch->cpus) begin_other(ticket);
    return;
  }
  batch = (const struct batch *)boot.batch;
  mask_8259s();
  frames_init(DOOR_MEMORY, RECORDS_ROOM);
  processors_init();
  check_batch();
  frames_init(batch->door, batch->limit);
  guard_ticks = batch->guard;
  guest_yields = batch->yields != 0;
  pages_init();
  processor_init(&cpus[0], 0);
  if (vmx_state == VMX_ROOT) vmcs_init();
  start_others();
  send_begin();
  why = run_batch(&done);
  send_end(done, why);
  leave();
}
