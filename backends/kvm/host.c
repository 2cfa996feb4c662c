/* What a host must have, and what to do where it lacks. */
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#define DEVICE "/dev/kvm"
#define LEAF_FEATURES 1
#define FEATURE_VMX (1u << 5)

static int cpu_has(const char *flag) {
  char line[8192], wanted[32];
  int found = 0;
  FILE *f = fopen("/proc/cpuinfo", "r");
  if (!f) return 0;
  snprintf(wanted, sizeof(wanted), " %s ", flag);
  while (!found && fgets(line, sizeof(line), f)) {
    line[strcspn(line, "\n")] = ' ';
    found = !strncmp(line, "flags", 5) && strstr(line, wanted);
  }
  fclose(f);
  return found;
}

static int first_char(const char *path) {
  FILE *f = fopen(path, "r");
  int c = f ? fgetc(f) : EOF;
  if (f) fclose(f);
  return c;
}

static void __attribute__((noreturn)) no_device(void) {
  if (cpu_has("vmx"))
    cannot("no " DEVICE ": modprobe kvm_intel; where that fails (dmesg says \"disabled by bios\"), switch on "
           "Intel Virtualization Technology in the firmware setup");
  if (cpu_has("svm"))
    cannot("no " DEVICE ": modprobe kvm_amd; where that fails, switch on SVM in the firmware setup");
  cannot("no " DEVICE ": this processor shows no virtualization; in a virtual machine let its host pass VT-x "
         "through, on hardware switch it on in the firmware setup");
}

int host_open(void) {
  int kvm = open(DEVICE, O_RDWR | O_CLOEXEC);
  if (kvm < 0 && errno == ENOENT) no_device();
  if (kvm < 0 && (errno == EACCES || errno == EPERM))
    cannot(DEVICE ": permission denied: usermod -aG kvm $USER and log in again, or run as root");
  if (kvm < 0 && (errno == ENODEV || errno == ENXIO)) no_device();
  if (kvm < 0) cannot(DEVICE ": %s", strerror(errno));
  if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
    cannot(DEVICE " has another API version than %d", KVM_API_VERSION);
  return kvm;
}

void host_want_vmx(const struct kvm_cpuid2 *supported) {
  for (u32 i = 0; i < supported->nent; i++)
    if (supported->entries[i].function == LEAF_FEATURES && supported->entries[i].ecx & FEATURE_VMX) return;
  if (first_char("/sys/module/kvm_intel/parameters/nested") == 'N')
    cannot("no nested VMX: modprobe -r kvm_intel && modprobe kvm_intel nested=1");
  cannot("no nested VMX: KVM offers it on Intel processors with VT-x, by the module kvm_intel");
}
