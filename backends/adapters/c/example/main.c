/* A small model of a processor with VT-x, as a subject: its adapter. */
#define X2APIC_ADAPTER_IMPLEMENTATION
#include "machine.h"

static enum x2a_answer run(const struct x2a_program *p, struct x2a_observation *o, const char **reason) {
  *reason = run_program(p, o);
  return *reason ? X2A_UNSUPPORTED : X2A_OBSERVED;
}

int main(void) {
  struct x2a_adapter adapter = {
      .name = "the VT-x model of the C starter kit",
      .version = "1",
      .vmx = true,
      .guest = true,
      .vcpus = X2A_VCPUS,
      .batch = 256,
      .memory = MEMORY_BASE,
      .physical_address_width = PHYSICAL_ADDRESS_WIDTH,
      .x2apic = true,
      .apic_version = LAPIC_VERSION,
      .run = run,
  };
  for (u32 msr = MSR_VMX_FIRST; msr <= MSR_VMX_LAST; msr++) {
    u64 value;
    if (vmx_capability(msr, &value)) adapter.msr[adapter.msrs++] = (struct x2a_register){msr, value};
  }
  return x2a_serve(&adapter);
}
