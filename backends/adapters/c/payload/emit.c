/* The payload emits a case's steps as instructions. */
#include "guest.h"

#define SPIN_ROUNDS 20000
#define INTERRUPT_GATE 0x8e00u

struct emitter {
  struct payload *p;
  u8 *at, *end;
  u64 log_value;
  int refused;
};

u64 prepare(struct payload *p, u64 stubs, u64 log_value);

static void bytes(struct emitter *e, const char *code, u64 n) {
  for (u64 i = 0; i < n; i++)
    if (e->at + i < e->end) e->at[i] = (u8)code[i];
  e->at += n;
}
#define EMIT(e, code) bytes(e, code, sizeof(code) - 1)

static void imm32(struct emitter *e, u32 value) { bytes(e, (const char *)&value, 4); }
static void imm64(struct emitter *e, u64 value) { bytes(e, (const char *)&value, 8); }

/* What an operation wants in RAX, RCX and RDX; 0 if it wants nothing. */
static int operands(const struct payload *p, const struct wire_op *op, u64 r[3]) {
  u64 ones = op->flags & OP_GARBAGE ? 0xffffffff00000000 : 0;
  r[0] = r[1] = r[2] = 0;
  switch (op->op) {
    case OP_RDMSR: r[0] = BEFORE_RAX | ones, r[1] = op->arg | ones, r[2] = BEFORE_RDX | ones; return 1;
    case OP_WRMSR:
      r[0] = (u32)op->value | ones, r[1] = op->arg | ones, r[2] = op->value >> 32 | ones;
      return 1;
    case OP_SEND_IPI: r[0] = (u32)op->value, r[1] = 0x830, r[2] = p->apic_id[op->arg % MAX_CPUS]; return 1;
    case OP_READ_CR8: r[0] = BEFORE_RAX, r[2] = BEFORE_RDX; return 1;
    case OP_WRITE_CR8: r[0] = op->value; return 1;
    case OP_CPUID: r[0] = op->arg; return 1;
    case OP_MMIO_READ: r[1] = 0xfee00000 + (u64)op->arg; return 1;
    case OP_APIC_MODE: { /* bits 11:10 of the value, the others as they are */
      u32 low, high;
      asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(0x1b));
      r[0] = (low & ~0xc00u) | (u32)op->value, r[1] = 0x1b, r[2] = high;
      return 1;
    }
  }
  return 0;
}

static void load_operands(struct emitter *e, const struct wire_op *op) {
  u64 r[3];
  if (!operands(e->p, op, r)) return;
  EMIT(e, "\x48\xb8"), imm64(e, r[0]);
  EMIT(e, "\x48\xb9"), imm64(e, r[1]);
  EMIT(e, "\x48\xba"), imm64(e, r[2]);
}

static int is_vmm(const struct wire_op *op) { return op->op >= OP_FIRST_VMM; }

/* They want no operands, and leave the next one's alone: those are loaded before a run of them. */
static int is_neutral(const struct wire_op *op) {
  return is_vmm(op) || (op->op >= OP_STI && op->op <= OP_HLT) || op->op == OP_VMCALL;
}

#define DELIVERIES_OFFSET imm32(e, PAYLOAD_DELIVERIES)

static void spin(struct emitter *e) {
  EMIT(e, "\x45\x8b\xb7"), DELIVERIES_OFFSET; /* mov deliveries(%r15), %r14d */
  EMIT(e, "\x41\xbd"), imm32(e, SPIN_ROUNDS); /* mov $rounds, %r13d */
  EMIT(e, "\xf3\x90"); /* 1: pause */
  EMIT(e, "\x45\x3b\xb7"), DELIVERIES_OFFSET; /* cmp deliveries(%r15), %r14d */
  EMIT(e, "\x75\x05\x41\xff\xcd\x75\xf0"); /* jne 2f; dec %r13d; jnz 1b; 2: */
}

static void barrier(struct emitter *e, u32 which, u32 count) {
  EMIT(e, "\x49\xbd"), imm64(e, e->p->barriers + 4 * (which & 0xff)); /* mov $barrier, %r13 */
  EMIT(e, "\xf0\x41\xff\x45\x00"); /* lock incl (%r13) */
  EMIT(e, "\xf3\x90\x41\x81\x7d\x00"), imm32(e, count); /* 1: pause; cmpl $count, (%r13) */
  EMIT(e, "\x72\xf4"); /* jb 1b */
}

static void set_pid_bit(struct emitter *e, u32 vcpu, u32 bit) {
  EMIT(e, "\x49\xbd"), imm64(e, e->p->descriptor[vcpu % MAX_CPUS] + bit / 32 % 16 * 4);
  EMIT(e, "\xf0\x41\x0f\xba\x6d\x00"); /* lock btsl $bit, (%r13) */
  bytes(e, (const char[]){(char)(bit % 32)}, 1);
}

static void instruction(struct emitter *e, const struct wire_op *op) {
  switch (op->op) {
    case OP_RDMSR: EMIT(e, "\x0f\x32"); return;
    case OP_WRMSR:
    case OP_APIC_MODE:
    case OP_SEND_IPI: EMIT(e, "\x0f\x30"); return;
    case OP_READ_CR8: EMIT(e, "\x44\x0f\x20\xc0"); return;
    case OP_WRITE_CR8: EMIT(e, "\x44\x0f\x22\xc0"); return;
    case OP_STI: EMIT(e, "\xfb"); return;
    case OP_CLI: EMIT(e, "\xfa"); return;
    case OP_NOP: EMIT(e, "\x90"); return;
    case OP_MOV_SS: EMIT(e, "\x41\x8e\xd4"); return;
    case OP_HLT: EMIT(e, "\xf4"); return;
    case OP_VMCALL: EMIT(e, "\x0f\x01\xc1"); return;
    case OP_CPUID: EMIT(e, "\x0f\xa2"); return;
    case OP_MMIO_READ: EMIT(e, "\x8b\x01"); return;
    case OP_SPIN: spin(e); return;
    case OP_BARRIER: barrier(e, op->arg, (u32)op->value); return;
    case OP_PID_BIT: set_pid_bit(e, op->arg, (u32)op->value); return;
  }
  e->refused = op->op;
}

static void emit_op(struct emitter *e, const struct wire_op *op) {
  u32 slot = op->slot;
  if (slot >= PAYLOAD_SLOTS || op->flags & OP_CPL3) {
    e->refused = op->op;
    return;
  }
  if (!e->p->behind[slot]) e->p->start[slot] = (u32)((u64)e->at - e->p->code);
  instruction(e, op);
  e->p->behind[slot] = (u32)((u64)e->at - e->p->code);
  if (op->op != OP_RDMSR && op->op != OP_READ_CR8 && op->op != OP_MMIO_READ && op->op != OP_CPUID) return;
  if (op->op == OP_CPUID) EMIT(e, "\x89\xc8"); /* mov %ecx, %eax: the feature words */
  EMIT(e, "\x41\xbe"), imm32(e, slot); /* mov $slot, %r14d */
  EMIT(e, "\x49\xbd"), imm64(e, e->log_value); /* mov $log_value, %r13 */
  EMIT(e, "\x41\xff\xd5"); /* call *%r13 */
}

static void emit_stream(struct emitter *e, const struct wire_op *ops, u32 count) {
  for (u32 i = 0; i < count && !e->refused; i++) {
    int begins = i == 0 || !is_neutral(&ops[i - 1]);
    u32 next = i;
    while (next < count && is_neutral(&ops[next])) next++;
    if (begins && next < count) load_operands(e, &ops[next]);
    if (!is_vmm(&ops[i])) emit_op(e, &ops[i]);
  }
}

/* Nothing comes between the last step and a VMCALL. Who goes on behind it finds the end again. */
static void emit_end(struct emitter *e) {
  u32 how = e->p->end & 3;
  if (how != PAYLOAD_VMCALL)
    EMIT(e, "\x41\xc7\x47\x04\x02\x00\x00\x00"); /* movl $PAYLOAD_DONE, state(%r15) */
  if (how == PAYLOAD_VMCALL) EMIT(e, "\x0f\x01\xc1\xeb\xfb"); /* 1: vmcall; jmp 1b */
  if (how == PAYLOAD_HLT) EMIT(e, "\xfa\xf4\xeb\xfc"); /* 1: cli; hlt; jmp 1b */
  if (how == PAYLOAD_PORT) EMIT(e, "\xe6\xe9\xeb\xfc"); /* 1: out %al, $0xe9; jmp 1b */
}

static void emit_all(struct emitter *e) {
  struct payload *p = e->p;
  const struct wire_handler *h = first_handler(p);
  emit_stream(e, p->op, p->ops);
  p->main_end = (u32)((u64)e->at - p->code);
  emit_end(e);
  for (u32 i = 0; i < p->handlers && i < PAYLOAD_HANDLERS; i++, h = next_handler(h)) {
    p->handler[i] = (u32)((u64)e->at - p->code);
    emit_stream(e, (const struct wire_op *)(h + 1), h->ops);
    EMIT(e, "\xc3");
  }
  p->code_end = (u32)((u64)e->at - p->code);
}

static void load_idt(struct payload *p, u64 stubs) {
  u64 *gate = (u64 *)p->idt;
  struct {
    u16 limit;
    u64 base;
  } __attribute__((packed)) descriptor = {PAYLOAD_IDT - 1, p->idt};
  u16 cs;
  asm volatile("mov %%cs, %0" : "=r"(cs));
  for (u64 i = 0; i < 256; i++) {
    u64 to = stubs + 16 * i;
    gate[2 * i] = (to & 0xffff) | (u64)cs << 16 | (u64)INTERRUPT_GATE << 32 | (to >> 16 & 0xffff) << 48;
    gate[2 * i + 1] = to >> 32;
  }
  asm volatile("lidt %0" ::"m"(descriptor));
}

/* The first instruction that is the case's own, and the registers that it wants. */
static void note_entry(struct payload *p) {
  u32 first = 0;
  u64 r[3] = {0};
  while (first < p->ops && is_neutral(&p->op[first])) first++;
  p->entry = p->code;
  if (first < p->ops && operands(p, &p->op[first], r)) p->entry += 30;
  p->rax = r[0], p->rcx = r[1], p->rdx = r[2];
}

u64 prepare(struct payload *p, u64 stubs, u64 logs) {
  struct emitter e = {p, (u8 *)p->code, (u8 *)p->code + PAYLOAD_CODE, logs, 0};
  p->state = p->events_used = p->deliveries = 0;
  for (u32 i = 0; i < PAYLOAD_SLOTS; i++) p->start[i] = p->behind[i] = 0;
  if (p->magic == PAYLOAD_MAGIC && p->handlers <= PAYLOAD_HANDLERS) emit_all(&e);
  p->refused = e.refused ? e.refused : -1;
  if (p->magic != PAYLOAD_MAGIC || p->handlers > PAYLOAD_HANDLERS || e.refused || e.at > e.end) {
    p->state = PAYLOAD_REFUSED;
    return 0;
  }
  load_idt(p, stubs);
  note_entry(p);
  if (p->end & PAYLOAD_STOPS) {
    p->state = PAYLOAD_READY;
    finish(p);
  }
  return p->code;
}
