/* An adapter of a real VMM: Linux' KVM, one processor, level guest. Each case gets a virtual machine of its own,
 * in which the payload performs the steps; there is no firmware and no other guest code. */
#define X2APIC_ADAPTER_IMPLEMENTATION
#include "kvm_machine.h"

#include <stdlib.h>
#include <sys/ioctl.h>

static struct machine m;
static u8 payload_image[0x4000];
static size_t payload_size;
static u64 payload_at = PAYLOAD;

static void note_changes(const struct x2a_register *before, struct x2a_final *f) {
  struct x2a_register now[64];
  unsigned count = machine_apic(&m, now);
  for (unsigned i = 0; i < count; i++)
    if (now[i].value != before[i].value) f->reg[f->registers++] = now[i];
}

static const char *read_events(const struct x2a_program *p, bool ended, struct x2a_observation *o) {
  const struct payload *table = (const struct payload *)(m.memory + TABLE);
  struct x2a_outcome stuck = {.kind = X2A_DID_NOT_RETURN};
  struct kvm_mp_state state = {0};
  struct kvm_regs r;
  if (ioctl(m.vcpu, KVM_GET_MP_STATE, &state) || ioctl(m.vcpu, KVM_GET_REGS, &r))
    return "its state cannot be read";
  if (state.mp_state == KVM_MP_STATE_HALTED) stuck.kind = X2A_STAYS_HALTED;
  if (ended && table->state != PAYLOAD_DONE) return "the guest ended before its last step, in an exception";
  return payload_read(table, m.memory + EVENTS, p, 0, ended ? NULL : &stuck, r.rip, o);
}

/* At level guest `physical` is the APIC ID that CPUID gives. */
static void note_identity(const struct x2a_program *p, struct x2a_observation *o) {
  for (unsigned i = 0; i < p->steps; i++) {
    if (p->step[i].action != X2A_RDMSR) continue;
    o->result[i].has_physical = true;
    o->result[i].physical = (struct x2a_outcome){.kind = X2A_VALUE, .value = 0};
  }
}

static const char *perform(const struct x2a_program *p, struct x2a_observation *o) {
  const struct payload *table = (const struct payload *)(m.memory + TABLE);
  struct x2a_register before[64];
  bool ended;
  const char *trouble = machine_start(&m, &p->vcpu[0], payload_at);
  if (trouble) return trouble;
  (void)machine_apic(&m, before);
  trouble = machine_run(&m, &ended);
  if (trouble) return trouble;
  if (table->state != PAYLOAD_READY) return "the payload does not become ready";
  trouble = machine_enter_at_first_step(&m, &p->vcpu[0]);
  if (!trouble) trouble = machine_run(&m, &ended);
  if (!trouble) trouble = read_events(p, ended, o);
  note_identity(p, o);
  note_changes(before, &o->final[0]);
  return trouble;
}

static enum x2a_answer run(const struct x2a_program *p, struct x2a_observation *o, const char **reason) {
  struct payload *table = (struct payload *)(m.memory + TABLE);
  memcpy(m.memory + payload_at, payload_image, payload_size);
  *reason = payload_write(table, TABLE_ROOM, p, 0);
  if (*reason) return X2A_UNSUPPORTED;
  table->end = PAYLOAD_PORT | PAYLOAD_STOPS;
  table->code = CODE;
  table->idt = IDT;
  table->events = EVENTS;
  table->events_room = EVENTS_ROOM;
  *reason = perform(p, o);
  machine_stop(&m);
  return *reason ? X2A_BROKEN : X2A_OBSERVED;
}

static bool read_payload(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) return false;
  payload_size = fread(payload_image, 1, sizeof payload_image, file);
  fclose(file);
  return payload_size > 0 && payload_size < sizeof payload_image;
}

int main(int count, char **words) {
  const struct x2a_adapter adapter = {.name = "KVM through the payload of the C starter kit",
                                      .version = "1",
                                      .guest = true,
                                      .vcpus = 1,
                                      .batch = 16,
                                      .memory = 0x100000,
                                      .physical_address_width = 40,
                                      .x2apic = true,
                                      .apic_version = 0x00050014,
                                      .run = run};
  const char *trouble;
  if (count > 2) payload_at = strtoull(words[2], NULL, 0);
  if (count < 2 || !read_payload(words[1]) || payload_at % 16 || payload_at < STACK ||
      payload_at > MEMORY - sizeof payload_image) {
    fprintf(stderr, "usage: %s PAYLOAD.BIN [ADDRESS], a multiple of 16 in 0x80000-0x1fc000\n", words[0]);
    return 2;
  }
  trouble = machine_open(&m);
  if (trouble) {
    fprintf(stderr, "%s\n", trouble);
    return 1;
  }
  return x2a_serve(&adapter);
}
