/* The smallest adapter: copy it, and put your VMM where `run` is. */
#define X2APIC_ADAPTER_IMPLEMENTATION
#include "x2apic_adapter.h"

/* This one knows what a guest reads as its APIC ID, and nothing else. It says so: that counts neither way. */
static enum x2a_answer run(const struct x2a_program *p, struct x2a_observation *o, const char **reason) {
  const struct x2a_step *step = &p->step[0];
  if (p->level != X2A_GUEST || p->vcpus != 1 || p->steps != 1 || step->action != X2A_RDMSR ||
      step->arg != 0x802 || step->cpl || p->vcpu[0].apic_mode != X2A_X2APIC) {
    *reason = "all but RDMSR of the APIC ID at level guest";
    return X2A_UNSUPPORTED;
  }
  x2a_value(o, 0, 0); /* what your guest read: EDX:EAX */
  o->result[0].has_physical = true;
  o->result[0].physical = (struct x2a_outcome){.kind = X2A_VALUE, .value = 0}; /* its CPUID.0BH:EDX */
  return X2A_OBSERVED;
}

int main(void) {
  const struct x2a_adapter adapter = {.name = "my VMM",
                                      .version = "0.1",
                                      .guest = true,
                                      .vcpus = 1,
                                      .batch = 64,
                                      .memory = 0x100000,
                                      .physical_address_width = 39,
                                      .x2apic = true,
                                      .apic_version = 0x00050014,
                                      .run = run};
  return x2a_serve(&adapter);
}
