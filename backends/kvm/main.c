/* Boots the probe's ROM on /dev/kvm, and ends with it or for want of progress. */
#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define USAGE                                                                                                \
  "usage: launcher [-o FILE] [-t SECONDS] [-v] IMAGE\n"                                                      \
  "       launcher -c [-v]\n"                                                                                \
  "  -o FILE     frames are in this file as they are written; without it they follow on standard output\n"   \
  "  -t SECONDS  the machine is stopped when no case has begun for so long; 60\n"                            \
  "  -v          refuse a KVM without nested VMX\n"                                                          \
  "  -c          only look whether KVM is here\n"                                                            \
  "  IMAGE       1 MiB: a batch and the probe\n"
#define PATIENCE 60
#define KEPT_ZEROS                                                                                           \
  256 /* behind the last byte of the last frame that is not 0; more than a frame can end in */

static struct vm vm;

void cannot(const char *format, ...) {
  va_list arguments;
  fputs("launcher: ", stderr);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(CANNOT_START);
}

static void interrupted(int number) { (void)number; }

static struct timespec after(time_t seconds) {
  struct timespec when;
  clock_gettime(CLOCK_MONOTONIC, &when);
  when.tv_sec += seconds;
  return when;
}

/* Returns 0 where so many seconds brought no progress (DOOR_SHARED counts the cases that began). */
static int wait_for_end(time_t patience) {
  const volatile u64 *begun = (const volatile u64 *)(vm.ram + RECORDS_BASE);
  u64 seen = *begun;
  time_t last = after(0).tv_sec;
  for (;;) {
    struct timespec until = after(1);
    if (!sem_clockwait(&vm.over, CLOCK_MONOTONIC, &until)) return 1;
    if (*begun != seen) last = after(0).tv_sec;
    seen = *begun;
    if (after(0).tv_sec - last >= patience) return 0;
  }
}

/* Takes the processors out of KVM_RUN. One that does not come out ends with the process. */
static void stop(void) {
  struct timespec until = after(1);
  for (u32 i = 0; i < vm.cpus; i++) {
    vm.vcpus[i].run->immediate_exit = 1;
    pthread_kill(vm.vcpus[i].thread, SIGUSR1);
  }
  for (u32 i = 0; i < vm.cpus; i++)
    if (!pthread_clockjoin_np(vm.vcpus[i].thread, NULL, CLOCK_MONOTONIC, &until) && *vm.trouble)
      vcpu_describe(&vm.vcpus[i]);
}

static int write_records(void) {
  const u8 *records = vm.ram + RECORDS_BASE;
  size_t length = vm.room, done = 0;
  while (length && !records[length - 1]) length--;
  length = length + KEPT_ZEROS < vm.room ? length + KEPT_ZEROS : vm.room;
  while (done < length) {
    ssize_t written = write(STDOUT_FILENO, records + done, length - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return 0;
    done += (size_t)written;
  }
  return 1;
}

static time_t seconds_of(const char *text) {
  char *end;
  long seconds = strtol(text, &end, 10);
  if (*end || seconds < 1 || seconds > 86400) cannot("-t %s: write whole seconds, 1 to 86400", text);
  return seconds;
}

int main(int count, char **words) {
  struct sigaction quietly = {.sa_handler = interrupted};
  const char *records = NULL;
  time_t patience = PATIENCE;
  int option, want_vmx = 0, only_look = 0;
  while ((option = getopt(count, words, "co:t:v")) != -1) switch (option) {
      case 'c': only_look = 1; break;
      case 'o': records = optarg; break;
      case 't': patience = seconds_of(optarg); break;
      case 'v': want_vmx = 1; break;
      default: fputs(USAGE, stderr); return CANNOT_START;
    }
  if (optind != count - !only_look) return fputs(USAGE, stderr), CANNOT_START;
  vm_open(&vm, want_vmx);
  if (only_look) return 0;
  vm_create(&vm, words[optind], records);
  sem_init(&vm.over, 0, 0);
  sigaction(SIGUSR1, &quietly, NULL);
  for (u32 i = 0; i < vm.cpus; i++) {
    int error = pthread_create(&vm.vcpus[i].thread, NULL, vcpu_run, &vm.vcpus[i]);
    if (error) cannot("no thread for processor %u: %s", i, strerror(error));
  }
  if (!wait_for_end(patience)) machine_over(&vm, "no progress for %lld s", (long long)patience);
  if (*vm.trouble) fprintf(stderr, "launcher: %s\n", vm.trouble);
  stop();
  if (!records && !write_records()) cannot("standard output cannot be written: %s", strerror(errno));
  fflush(stderr);
  _exit(*vm.trouble ? ENDED_BADLY : 0);
}
