#include "apic.h"
#include "guest.h"
#include "machine.h"
#include "vmx.h"

#define SPIN_ROUNDS 240000      /* at level vmx: a timer runs on while a hypervisor below works */
#define SPIN_ROUNDS_GUEST 60000 /* each round may be single-stepped */
#define SPIN_TURNS 100 /* of the other processors, with PORT_YIELD */

u32 guest_yields;

struct emitter {
  struct cpu *cpu;
  u8 *to, *end;
  int at_entry; /* the first operands go into the registers of the VM entry, not into code */
};

static void bytes(struct emitter *e, const char *code, u64 n) {
  if (e->to + n <= e->end) memcpy(e->to, code, n);
  e->to += n;
}
#define EMIT(e, code) bytes(e, code, sizeof(code) - 1)

static void imm32(struct emitter *e, u32 value) { bytes(e, (const char *)&value, 4); }
static void imm64(struct emitter *e, u64 value) { bytes(e, (const char *)&value, 8); }

static void load_registers(struct emitter *e, u64 rax, u64 rcx, u64 rdx) {
  if (e->at_entry) {
    e->cpu->rax = rax, e->cpu->rcx = rcx, e->cpu->rdx = rdx;
    e->at_entry = 0;
    return;
  }
  EMIT(e, "\x48\xb8"), imm64(e, rax);
  EMIT(e, "\x48\xb9"), imm64(e, rcx);
  EMIT(e, "\x48\xba"), imm64(e, rdx);
}

static u32 apic_id_of(u32 vcpu) { return vcpu < MAX_CPUS ? cpus[vcpu].apic_id : 0; }

static void load_mode(struct emitter *e, u64 bits) {
  u64 base = (rdmsr(MSR_APIC_BASE) & ~(u64)(APIC_BASE_EN | APIC_BASE_EXTD)) | bits;
  load_registers(e, (u32)base, MSR_APIC_BASE, base >> 32);
}

/* What an operation wants in RAX, RCX and RDX. */
static void operands(struct emitter *e, const struct wire_op *op) {
  u64 ones = op->flags & OP_GARBAGE ? 0xffffffff00000000 : 0;
  switch (op->op) {
    case OP_RDMSR: load_registers(e, BEFORE_RAX | ones, op->arg | ones, BEFORE_RDX | ones); break;
    case OP_WRMSR: load_registers(e, (u32)op->value | ones, op->arg | ones, op->value >> 32 | ones); break;
    case OP_SEND_IPI: load_registers(e, (u32)op->value, 0x830, apic_id_of(op->arg)); break;
    case OP_READ_CR8: load_registers(e, BEFORE_RAX, 0, BEFORE_RDX); break;
    case OP_WRITE_CR8: load_registers(e, op->value, 0, 0); break;
    case OP_APIC_MODE: load_mode(e, op->value); break;
    case OP_CPUID: load_registers(e, op->arg, 0, 0); break;
    case OP_MMIO_READ: load_registers(e, 0, 0xfee00000 + (u64)op->arg, 0); break;
  }
}

/* STI, CLI, NOP, MOV SS, HLT and VMCALL want no operands. Those of the next operation that does are
 * loaded before a run of them, so that nothing of the probe's stands behind an STI or a VM entry. */
static int is_neutral(const struct wire_op *op) {
  return is_vmm(op) || (op->op >= OP_STI && op->op <= OP_HLT) || op->op == OP_VMCALL;
}

static int yields(const struct emitter *e) { return guest_yields && e->cpu->record->level == LEVEL_VMX; }

/* One round of a wait, two bytes: out %al, $port, which exits to the launcher, or PAUSE. */
static void wait_a_little(struct emitter *e) {
  if (yields(e))
    bytes(e, (const char[]){(char)0xe6, (char)PORT_YIELD}, 2);
  else
    EMIT(e, "\xf3\x90");
}

static u32 spin_rounds(const struct emitter *e) {
  if (yields(e)) return SPIN_TURNS;
  return e->cpu->record->level == LEVEL_VMX ? SPIN_ROUNDS : SPIN_ROUNDS_GUEST;
}

static void wait_for_interrupt(struct emitter *e) {
  EMIT(e, "\x45\x8b\xb7"), imm32(e, CPU_DELIVERIES);                     /* mov deliveries(%r15), %r14d */
  EMIT(e, "\x41\xbd"), imm32(e, spin_rounds(e));                       /* mov $rounds, %r13d */
  wait_a_little(e);                                                      /* 1: */
  EMIT(e, "\x45\x3b\xb7"), imm32(e, CPU_DELIVERIES);                     /* cmp deliveries(%r15), %r14d */
  EMIT(e, "\x75\x05\x41\xff\xcd\x75\xf0");                               /* jne 2f; dec %r13d; jnz 1b; 2: */
}

static volatile u32 barriers[256];

static void wait_at_barrier(struct emitter *e, u32 which, u32 count) {
  EMIT(e, "\x49\xbd"), imm64(e, (u64)&barriers[which & 0xff]); /* mov $barrier, %r13 */
  EMIT(e, "\xf0\x41\xff\x45\x00");                             /* lock incl (%r13) */
  EMIT(e, "\xeb\x02");                                         /* jmp 2f */
  wait_a_little(e);                                            /* 1: */
  EMIT(e, "\x41\x81\x7d\x00"), imm32(e, count);               /* 2: cmpl $count, (%r13) */
  EMIT(e, "\x72\xf4");                                         /* jb 1b */
}

static void set_pid_bit(struct emitter *e, u32 vcpu, u32 bit) {
  EMIT(e, "\x49\xbd"), imm64(e, (u64)(cpus[vcpu % MAX_CPUS].descriptor + (bit / 32 % 16) * 4));
  EMIT(e, "\xf0\x41\x0f\xba\x6d\x00"); /* lock btsl $bit, (%r13) */
  bytes(e, (const char[]){(char)(bit % 32)}, 1);
}

static void init_sipi(struct emitter *e, u32 vcpu) {
  EMIT(e, "\xbf"), imm32(e, vcpu);                            /* mov $vcpu, %edi */
  EMIT(e, "\x48\xb8"), imm64(e, (u64)apic_restart);           /* mov $apic_restart, %rax */
  EMIT(e, "\xff\xd0");                                        /* call *%rax */
}

static void instruction(struct emitter *e, const struct wire_op *op) {
  switch (op->op) {
    case OP_RDMSR: EMIT(e, "\x0f\x32"); break;
    case OP_WRMSR:
    case OP_APIC_MODE: EMIT(e, "\x0f\x30"); break;
    case OP_SEND_IPI:
      for (int i = 0; yields(e) && i < GUEST_TURNS; i++) wait_a_little(e); /* to who comes from a barrier */
      EMIT(e, "\x0f\x30");
      break;
    case OP_READ_CR8: EMIT(e, "\x44\x0f\x20\xc0"); break;
    case OP_WRITE_CR8: EMIT(e, "\x44\x0f\x22\xc0"); break;
    case OP_STI: EMIT(e, "\xfb"); break;
    case OP_CLI: EMIT(e, "\xfa"); break;
    case OP_NOP: EMIT(e, "\x90"); break;
    case OP_MOV_SS: EMIT(e, "\x41\x8e\xd4"); break; /* mov %r12d, %ss */
    case OP_HLT: EMIT(e, "\xf4"); break;
    case OP_VMCALL: EMIT(e, "\x0f\x01\xc1"); break;
    case OP_CPUID: EMIT(e, "\x0f\xa2"); break;
    case OP_MMIO_READ: EMIT(e, "\x8b\x01"); break; /* mov (%rcx), %eax */
    case OP_SPIN: wait_for_interrupt(e); break;
    case OP_BARRIER: wait_at_barrier(e, op->arg, (u32)op->value); break;
    case OP_PID_BIT: set_pid_bit(e, op->arg, (u32)op->value); break;
    case OP_INIT_SIPI: init_sipi(e, op->arg); break;
    case OP_WAIT_FOR_SIPI: EMIT(e, "\xf4\xeb\xfd"); break; /* 1: hlt; jmp 1b */
    case OP_AT_RESET:
      e->cpu->reports_reset = 1;
      EMIT(e, "\x90");
      break;
  }
}

/* The values of a CPUID are ECX and EDX, the feature words; at level vmx it exits and has none. */
static int gives_value(const struct emitter *e, const struct wire_op *op) {
  if (op->op == OP_CPUID) return e->cpu->record->level == LEVEL_GUEST;
  return op->op == OP_RDMSR || op->op == OP_READ_CR8 || op->op == OP_MMIO_READ;
}

/* To CPL 3 by IRET, and back by INT3, whose gate is open to CPL 3. */
static void enter_cpl3(struct emitter *e) {
  /* mov %rsp, %r13; push $23h; push %r13; pushf; push $2bh */
  EMIT(e, "\x49\x89\xe5\x6a\x23\x41\x55\x9c\x6a\x2b");
  EMIT(e, "\x4c\x8d\x2d\x04\x00\x00\x00\x41\x55\x48\xcf"); /* lea 4(%rip),%r13; push %r13; iretq */
}

static void emit_op(struct emitter *e, const struct wire_op *op) {
  struct layout *l = &e->cpu->layout;
  u32 slot = op->slot;
  if (slot >= MAX_SLOTS) return;
  if (op->flags & OP_CPL3) e->cpu->cpl3 |= 1, enter_cpl3(e);
  if (!l->start[slot]) l->start[slot] = e->to;
  instruction(e, op);
  l->end[slot] = e->to;
  if (op->flags & OP_CPL3) EMIT(e, "\xcc");
  if (gives_value(e, op)) {
    if (op->op == OP_CPUID) EMIT(e, "\x89\xc8"); /* mov %ecx, %eax */
    EMIT(e, "\x41\xbe"), imm32(e, slot); /* mov $slot, %r14d */
    EMIT(e, "\x41\xff\x97"), imm32(e, CPU_LOG_VALUE); /* call *log_value(%r15) */
  }
}

static void emit_stream(struct emitter *e, const struct wire_op *ops, u32 count) {
  for (u32 i = 0; i < count; i++) {
    if (is_neutral(&ops[i]) && (i == 0 || !is_neutral(&ops[i - 1]))) {
      u32 next = i;
      while (next < count && is_neutral(&ops[next])) next++;
      if (next < count) operands(e, &ops[next]);
    } else if (!is_neutral(&ops[i]) && (i == 0 || !is_neutral(&ops[i - 1]))) {
      operands(e, &ops[i]);
    }
    if (!is_vmm(&ops[i])) emit_op(e, &ops[i]);
  }
}

int guest_emit(struct cpu *c) {
  const struct wire_vcpu *b = c->block;
  struct layout *l = &c->layout;
  int vmx = c->record->level == LEVEL_VMX;
  struct emitter e = {c, c->code, c->code + CODE_ROOM, vmx};
  const u8 *p;
  if (b->slots > MAX_SLOTS || b->handlers > MAX_HANDLERS) return 0;
  memset(l->start, 0, b->slots * sizeof(l->start[0]));
  memset(l->end, 0, b->slots * sizeof(l->end[0]));
  l->steps = b->steps;
  l->slots = b->slots;
  l->base = e.to;
  c->rax = c->rcx = c->rdx = 0;
  c->reports_reset = 0;
  if (vmx) c->cpl3 = (u8)(c->cpl3 << 1 | ((b->guest & GUEST_CPL3) != 0));
  emit_stream(&e, c->ops, b->ops);
  l->main_end = e.to;
  if (vmx)
    EMIT(&e, "\x0f\x01\xc1");
  else
    EMIT(&e, "\xc3");
  e.at_entry = 0;
  p = (const u8 *)(c->ops + b->ops);
  for (u32 i = 0; i < b->handlers; i++) {
    const struct wire_handler *h = (const struct wire_handler *)p;
    const struct wire_op *ops = (const struct wire_op *)(h + 1);
    c->handler[i] = e.to;
    emit_stream(&e, ops, h->ops);
    EMIT(&e, "\xc3");
    p = (const u8 *)(ops + h->ops);
  }
  return e.to <= e.end;
}

void guest_clear_barriers(void) {
  for (u32 i = 0; i < 256; i++) barriers[i] = 0;
}
