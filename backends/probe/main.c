/* The probe: starts the processors, runs each case of the batch, and sends one frame a case. */
#include "apic.h"
#include "frames.h"
#include "guest.h"
#include "machine.h"
#include "page.h"
#include "vmm.h"
#include "vmx.h"

struct cpu cpus[MAX_CPUS];
u64 guest_idt[512] __attribute__((aligned(PAGE)));
u64 host_idt[512] __attribute__((aligned(PAGE)));
extern u8 host_stubs[];

static u8 vmx_pages[MAX_CPUS][7][PAGE] __attribute__((aligned(PAGE)));
static u8 code_pages[MAX_CPUS][CODE_ROOM] __attribute__((aligned(PAGE)));
static u8 logs[MAX_CPUS][LOG_ROOM + PAGE] __attribute__((aligned(PAGE)));
static u8 stacks[MAX_CPUS][2][STACK_ROOM] __attribute__((aligned(PAGE)));

/* Not cleared with the rest of .bss: the bootstrap processor is already on its own. */
u8 boot_stacks[MAX_CPUS + 1][1 << BOOT_STACK_SHIFT] __attribute__((aligned(PAGE), section(".bss.stacks")));

static const struct batch *const batch = (const struct batch *)(u64)BATCH_BASE;
static u32 has_vmx;
static volatile u32 ready;
static volatile u32 dirty;

/* One case on several processors: each phase begins when all have finished the one before. */
static const struct wire_case *volatile shared_case;
static volatile u32 generation, arrived, phase;

void *memset(void *to, int value, size_t length) {
  void *start = to;
  asm volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(value) : "memory");
  return start;
}

void *memcpy(void *to, const void *from, size_t length) {
  void *start = to;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length)::"memory");
  return start;
}

void host_trap(struct trap_frame *f);
void host_trap(struct trap_frame *f) {
  const struct exception_entry *e;
  if (f->vector >= 16) {
    apic_eoi();
    return;
  }
  for (e = __exceptions_start; e < __exceptions_end; e++)
    if (f->rip == e->instruction) {
      f->rip = e->next;
      f->r8 = f->vector + 1;
      return;
    }
  fail("exception in root operation");
}

static void make_idt(u64 *idt, const u8 *stubs) {
  for (u64 vector = 0; vector < 256; vector++) {
    u64 address = (u64)stubs + 16 * vector, dpl = vector == 3 ? 3 : 0;
    idt[2 * vector] = (address & 0xffff) | (u64)SELECTOR_CODE << 16 | (0x8e00 | dpl << 13) << 32 |
                      (address >> 16 & 0xffff) << 48;
    idt[2 * vector + 1] = address >> 32;
  }
}

struct __attribute__((packed)) table_register {
  u16 limit;
  u64 base;
};

void load_idt(const u64 *idt) {
  struct table_register r = {PAGE - 1, (u64)idt};
  asm volatile("lidt %0" ::"m"(r));
}

static void load_tables(struct cpu *c) {
  static const u64 segments[6] = {0,
                                  0x00cf9b000000ffff,
                                  0x00cf93000000ffff,
                                  0x00af9b000000ffff,
                                  0x00cff3000000ffff,
                                  0x00affb000000ffff};
  u64 tss = (u64)c->tss, rsp0 = (u64)c->user_stack + STACK_ROOM;
  struct table_register r = {sizeof(c->gdt) - 1, (u64)c->gdt};
  memcpy(c->gdt, segments, sizeof(segments));
  c->gdt[6] = 0x67 | (tss & 0xffffff) << 16 | 0x89ul << 40 | (tss >> 24 & 0xff) << 56;
  c->gdt[7] = tss >> 32;
  memcpy(&c->tss[1], &rsp0, 8);
  asm volatile("lgdt %0" ::"m"(r));
  asm volatile("ltr %w0" ::"r"(SELECTOR_TSS));
  load_idt(host_idt);
  wrmsr(MSR_GS_BASE, (u64)c);
}

static int enter_root_operation(struct cpu *c) {
  u64 cr0, cr4, feature_control = rdmsr(MSR_FEATURE_CONTROL);
  u8 failed;
  if (!(feature_control & 1)) wrmsr(MSR_FEATURE_CONTROL, feature_control | 5);
  if ((rdmsr(MSR_FEATURE_CONTROL) & 5) != 5) return 0;
  asm volatile("mov %%cr0, %0; mov %%cr4, %1" : "=r"(cr0), "=r"(cr4));
  cr0 = (cr0 | rdmsr(MSR_VMX_CR0_FIXED0)) & rdmsr(MSR_VMX_CR0_FIXED1);
  cr4 = (cr4 | 0x2000 | rdmsr(MSR_VMX_CR4_FIXED0)) & rdmsr(MSR_VMX_CR4_FIXED1);
  asm volatile("mov %0, %%cr0; mov %1, %%cr4" ::"r"(cr0), "r"(cr4));
  *(u32 *)c->vmxon_region = *(u32 *)c->vmcs = (u32)rdmsr(MSR_VMX_BASIC) & 0x7fffffff;
  asm volatile("vmxon %1; setbe %0" : "=r"(failed) : "m"(c->vmxon_region) : "cc", "memory");
  return !failed;
}

static void processor_init(struct cpu *c, u32 index) {
  u8(*pages)[PAGE] = vmx_pages[index];
  c->self = c;
  c->index = index;
  c->vmxon_region = pages[0];
  c->vmcs = pages[1];
  c->page = pages[2];
  c->image = pages[3];
  c->bitmap = pages[4];
  c->descriptor = pages[5];
  c->msr_areas = pages[6];
  c->code = code_pages[index];
  c->log_base = logs[index];
  c->stack = stacks[index][0];
  c->user_stack = stacks[index][1];
  load_tables(c);
  c->apic_id = cpuid(1).ebx >> 24;
  apic_init(c);
  if (cpuid(1).ecx & 1u << 5 && !enter_root_operation(c)) fail("VMXON failed");
}

static void send_begin(void) {
  struct wire_begin *b;
  struct cpuid vendor = cpuid(0), features = cpuid(1);
  frame_begin(0);
  b = frame_reserve(sizeof(*b));
  memset(b, 0, sizeof(*b));
  b->kind = FRAME_BEGIN;
  b->count = batch->count;
  b->cpus = ready + 1;
  b->vmx = has_vmx;
  b->signature = features.eax;
  b->features = features.ecx;
  b->physical_width = cpuid(0x80000008).eax & 0xff;
  b->apic_version = *(volatile u32 *)0xfee00030;
  memcpy(b->vendor, (u32[]){vendor.ebx, vendor.edx, vendor.ecx}, 12);
  for (u32 i = 0; i < CAPABILITIES; i++)
    if (!has_vmx || try_rdmsr(CAPABILITY_FIRST + i, &b->capability[i])) b->capability[i] = ABSENT;
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
  f->registers = (u16)c->registers;
  frame_append(c->changed, c->registers * sizeof(struct wire_register));
  f->status = c->status;
  f->activity = c->activity;
  f->blocking = c->blocking;
  f->pid = c->record->level == LEVEL_VMX;
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

static u32 run_case(struct cpu *c, const struct wire_case *record) {
  u32 vcpus = record->vcpus;
  int mode_reached = apic_set_mode(record->mode);
  if (!mode_reached) dirty = 2;
  if (mode_reached && c->expected_mode != record->mode) {
    c->expected_mode = record->mode;
    apic_rebase(c);
  }
  if (c->index == 0) guest_clear_barriers();
  if (!vmm_prepare(c, record, block_of(record, c->index))) fail("a case does not fit its room");
  if (vcpus > 1) meet(vcpus);
  if (dirty == 2) return END_MODE;
  vmm_run(c);
  c->registers = apic_changes(c, c->changed);
  if (vcpus > 1) meet(vcpus);
  return END_COMPLETE;
}

static void clean_up(struct cpu *c) {
  if (c->registers && !apic_restore(c)) dirty = 1;
  if (c->shared_pages) pages_restore();
}

static void other_processor(struct cpu *c) {
  u32 seen = 0;
  for (;;) {
    while (generation == seen) asm volatile("pause");
    seen = generation;
    if (c->index >= shared_case->vcpus) continue;
    if (run_case(c, shared_case) == END_COMPLETE) {
      meet(shared_case->vcpus); /* results are read before anything is cleaned up */
      clean_up(c);
    }
    meet(shared_case->vcpus);
  }
}

static u32 run_batch(u32 *done) {
  const struct wire_case *record = (const struct wire_case *)(batch + 1);
  struct cpu *c = &cpus[0];
  for (*done = 0; *done < batch->count; ++*done) {
    u32 why;
    progress();
    if (record->vcpus > 1) {
      shared_case = record;
      generation++;
    }
    why = run_case(c, record);
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
    record = (const struct wire_case *)((const u8 *)record + record->size);
  }
  return END_COMPLETE;
}

static void check_batch(void) {
  if (batch->magic != BATCH_MAGIC) fail("no batch in the image");
  if (batch->version != WIRE_VERSION || batch->header != sizeof(struct batch))
    fail("the batch has another wire version");
  if (batch->size < sizeof(struct batch) || batch->size > BATCH_ROOM) fail("the batch has a wrong size");
  if (batch->cpus < 1 || batch->cpus > MAX_CPUS) fail("the batch wants a wrong number of processors");
  if (crc32(0, batch + 1, batch->size - sizeof(struct batch)) != batch->crc)
    fail("the batch's checksum is wrong");
}

static void start_others(void) {
  if (batch->cpus == 1) return;
  apic_start_others();
  while (ready < batch->cpus - 1) asm volatile("pause");
}

void start(u32 ticket);
void start(u32 ticket) {
  u32 done, why;
  if (ticket >= MAX_CPUS) return;
  if (ticket > 0) {
    processor_init(&cpus[ticket], ticket);
    __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
    other_processor(&cpus[ticket]);
  }
  frames_init(DOOR_MEMORY, RECORDS_ROOM);
  make_idt(guest_idt, guest_stubs);
  make_idt(host_idt, host_stubs);
  check_batch();
  frames_init(batch->door, batch->limit);
  guard_ticks = batch->guard;
  pages_init();
  processor_init(&cpus[0], 0);
  has_vmx = cpuid(1).ecx >> 5 & 1;
  if (has_vmx) vmm_init();
  start_others();
  send_begin();
  why = run_batch(&done);
  send_end(done, why);
  leave();
}
