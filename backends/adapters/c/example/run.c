/* A case from its program to its observation: sets the machine up, gives each processor its turns, and
 * tells the final state. */
#include "machine.h"

#define APIC_BASE 0xfee00000u
#define BSP 0x100u
#define EN 0x800u
#define EXTD 0x400u
#define MAX_TURNS 20000000u
#define MAX_WAITS 10000u

/* The registers that a final state tells of: first and last MSR, in order. */
static const u16 observed[][2] = {
    {MSR_APIC_BASE, MSR_APIC_BASE}, {APIC_TPR, APIC_TPR},           {APIC_LDR, APIC_LDR},
    {APIC_SVR, APIC_ESR},           {APIC_LVT_CMCI, APIC_LVT_CMCI}, {APIC_LVT_TIMER, APIC_INITIAL_COUNT},
    {APIC_DCR, APIC_DCR},
};
#define OBSERVED_RANGES (sizeof observed / sizeof *observed)

/* All of them, by number; returns how many. */
static unsigned read_observed(const struct lapic *l, struct x2a_register *to) {
  unsigned count = 0;
  for (unsigned i = 0; i < OBSERVED_RANGES; i++)
    for (u32 msr = observed[i][0]; msr <= observed[i][1]; msr++)
      to[count++] = (struct x2a_register){msr, lapic_register(l, msr)};
  return count;
}

static u64 apic_base(const struct cpu *c, u8 mode) {
  u64 base = APIC_BASE | (c->index ? 0 : BSP);
  return base | (mode == X2A_DISABLED ? 0 : EN) | (mode == X2A_X2APIC ? EXTD : 0);
}

static void put_msr_list(const struct x2a_msr_list *list, u64 address) {
  if (list->count) memory_put(address, list->entry, (unsigned)(list->count * sizeof *list->entry));
}

/* The structures in memory that VMCS fields lead to. */
static void put_structures(struct cpu *c) {
  const struct x2a_setup *s = c->setup;
  memory_put(s->page_address, s->page, X2A_PAGE);
  memory_put(s->bitmap_address, s->msr_bitmap, X2A_PAGE);
  if (s->has_descriptor) memory_put(s->descriptor_address, s->descriptor, sizeof s->descriptor);
  store64(c->machine->program->pid_pointer_table + 8 * c->index, s->pid_pointer);
  put_msr_list(&s->entry_load, c->vmcs[ENTRY_LOAD_ADDRESS]);
  put_msr_list(&s->exit_store, c->vmcs[EXIT_STORE_ADDRESS]);
  put_msr_list(&s->exit_load, c->vmcs[EXIT_LOAD_ADDRESS]);
}

static void set_up_cpu(struct machine *m, u8 index) {
  const struct x2a_program *p = m->program;
  struct cpu *c = &m->cpu[index];
  memset(c, 0, offsetof(struct cpu, own));
  memset(&c->frame[0], 0, sizeof c->frame[0]);
  c->depth = 0;
  c->steps = 0;
  c->deliveries = c->exits = 0;
  c->reports_reset = false;
  c->machine = c->apic.machine = m;
  c->setup = &p->vcpu[index];
  c->index = index;
  c->apic.id = index;
  c->state = p->level == X2A_VMX ? IN_ROOT : RUNNING;
  c->interrupt_flag = c->setup->interrupt_flag;
  c->trap_flag = c->setup->trap_flag;
  c->cpl = c->setup->cpl;
  lapic_reset(&c->apic, apic_base(c, c->setup->apic_mode));
  if (c->setup->apic_mode != X2A_DISABLED) c->apic.svr = 0x1ff;
  for (u16 i = 0; i < p->steps; i++)
    if (p->step[i].vcpu == index) c->own[c->steps++] = i;
  c->frame[0].count = c->steps;
  for (unsigned i = 0; i < c->setup->fields; i++)
    write_field(c, c->setup->field[i].encoding, c->setup->field[i].value);
  if (p->level == X2A_VMX) put_structures(c);
  (void)read_observed(&c->apic, c->before);
}

/* What each RDMSR of the main stream gives in root operation; at level guest the APIC ID of CPUID. */
static void note_physical_values(struct machine *m) {
  for (unsigned i = 0; i < m->program->steps; i++) {
    const struct x2a_step *s = &m->program->step[i];
    struct x2a_result *r = &m->seen->result[i];
    const struct cpu *c = &m->cpu[s->vcpu];
    u64 value = c->apic.id;
    if (s->action != X2A_RDMSR) continue;
    r->has_physical = true;
    if (m->program->level == X2A_GUEST || read_msr(c, s->arg, &value))
      r->physical = (struct x2a_outcome){.kind = X2A_VALUE, .value = value};
    else
      r->physical = (struct x2a_outcome){.kind = X2A_FAULT, .value = 13};
  }
}

static void set_up(struct machine *m) {
  memory_clear();
  m->clock = 0;
  m->trouble = NULL;
  m->cpus = (u8)m->program->vcpus;
  memset(m->arrived, 0, sizeof m->arrived);
  for (u64 at = 0; at < X2A_PAGE; at += 8) store64(m->program->stale_page + at, 0x9c401c399c401c39);
  for (u8 i = 0; i < m->cpus; i++) set_up_cpu(m, i);
  x2a_begin(m->seen, m->program);
  x2a_new_result(&m->seen->result[m->seen->results++]); /* of processors without steps */
  note_physical_values(m);
}

/* In root operation: the VMM's first steps, then VM entry. */
static void enter(struct cpu *c) {
  struct x2a_outcome outcome;
  if (!c->entered && !c->exits) perform_vmm_steps(c, 0);
  outcome = vm_entry(c);
  if (outcome.kind == X2A_ENTERED) {
    c->entered = true;
    c->state = RUNNING;
    return;
  }
  c->state = FINISHED;
  if (c->entered)
    x2a_add_outcome(c->machine->seen, owner(c), outcome);
  else
    c->machine->seen->entry[c->index] = outcome;
}

/* One turn of a processor; false where nothing has changed. */
static bool turn(struct cpu *c) {
  u32 deliveries = c->deliveries;
  enum boundary boundary;
  c->machine->clock++;
  lapic_tick(&c->apic);
  if (c->state == IN_ROOT) {
    enter(c);
    return true;
  }
  boundary = before_instruction(c);
  if (boundary == GO) return execute(c);
  return boundary == LEFT || c->deliveries != deliveries;
}

/* Where every processor waits, time goes on to the next timer interrupt. */
static bool skip_time(struct machine *m) {
  u64 next = ~0ull;
  for (u8 i = 0; i < m->cpus; i++) {
    const struct cpu *c = &m->cpu[i];
    if (c->state == RUNNING && lapic_will_interrupt(&c->apic) && c->apic.expires < next)
      next = c->apic.expires;
  }
  if (next == ~0ull) return false;
  if (next > m->clock) m->clock = next;
  return true;
}

static void take_turns(struct machine *m) {
  u32 waits = 0;
  for (u32 turns = 0; turns < MAX_TURNS && !m->trouble && !m->seen->full; turns++) {
    bool changed = false, finished = true;
    for (u8 i = 0; i < m->cpus; i++) {
      if (m->cpu[i].state == FINISHED) continue;
      finished = false;
      changed |= turn(&m->cpu[i]);
    }
    if (finished) return;
    if (!changed && (++waits > MAX_WAITS || !skip_time(m))) return;
  }
}

/* A processor that nothing will bring on: as if the VMX-preemption timer ended it. */
static void end_stuck(struct cpu *c) {
  struct x2a_outcome outcome = {.kind = c->activity == HALTED ? X2A_STAYS_HALTED : X2A_DID_NOT_RETURN};
  if (c->state == FINISHED) return;
  x2a_add_outcome(c->machine->seen, owner(c), outcome);
  if (c->non_root) save_guest(c);
}

static void note_page(const struct cpu *c, struct x2a_final *f) {
  const u8 *now = memory(c->setup->page_address, X2A_PAGE);
  for (u32 at = 0; at < X2A_PAGE; at += 4) {
    if (!(at & 0xff) && !memcmp(now + at, c->setup->page + at, 0x100)) {
      at += 0xfc;
    } else if (memcmp(now + at, c->setup->page + at, 4)) {
      f->word[f->words].offset = at;
      memcpy(&f->word[f->words++].value, now + at, 4);
    }
  }
}

static void note_registers(const struct cpu *c, struct x2a_final *f) {
  struct x2a_register now[64];
  struct lapic told = c->apic;
  unsigned count;
  if (c->reports_reset) lapic_reset(&told, apic_base(c, X2A_XAPIC));
  count = read_observed(&told, now);
  for (unsigned i = 0; i < count; i++)
    if (c->reports_reset || now[i].value != c->before[i].value) f->reg[f->registers++] = now[i];
}

static void note_final(const struct cpu *c) {
  struct x2a_final *f = &c->machine->seen->final[c->index];
  *f = (struct x2a_final){0};
  note_registers(c, f);
  if (c->machine->program->level != X2A_VMX) return;
  f->rvi = (u8)c->vmcs[INTERRUPT_STATUS];
  f->svi = (u8)(c->vmcs[INTERRUPT_STATUS] >> 8);
  f->activity = c->vmcs[ACTIVITY] & 3;
  f->blocking = c->vmcs[INTERRUPTIBILITY] & 0xf;
  f->has_pid = c->setup->has_descriptor;
  for (unsigned i = 0; i < 8; i++) f->pid[i] = load64(c->setup->descriptor_address + 8 * i);
  note_page(c, f);
}

/* Runs a case; what this model lacks for it, or NULL. */
const char *run_program(const struct x2a_program *p, struct x2a_observation *o) {
  static struct machine m;
  m.program = p;
  m.seen = o;
  set_up(&m);
  take_turns(&m);
  for (u8 i = 0; i < m.cpus; i++) {
    end_stuck(&m.cpu[i]);
    note_final(&m.cpu[i]);
  }
  return m.trouble;
}
