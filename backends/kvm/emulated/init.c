/* The first program of Linux in the emulated machine: loads KVM, runs the launcher on each batch of the
 * disk, and puts what comes back onto the disk. No driver knows the disk; this program drives it itself. */
#define _GNU_SOURCE
#include "ata.h"
#include "batches.h"
#include "descriptors.h"
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PORT_E9 0xe9
#define PORT_SHUTDOWN 0x8900
#define ROM "/run/rom"
#define FRAMES "/run/frames"
#define SAID "/run/said"
#define HUGE_PAGES "/sys/kernel/mm/transparent_hugepage/enabled"
#define ROM_SIZE 0x100000u
#define MOST_TEXT 2048
#define APICV "/sys/module/kvm_intel/parameters/enable_apicv"

static struct host_work work __attribute__((aligned(SECTOR)));
static u32 next_result;

static void out_text(u16 to, const char *text) {
  while (*text) outb((u8)*text++, to);
}

static void say(const char *format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof(line), format, arguments);
  va_end(arguments);
  out_text(PORT_E9, line);
  out_text(PORT_E9, "\n");
}

static void __attribute__((noreturn)) end(void) {
  for (;;) out_text(PORT_SHUTDOWN, "Shutdown");
}

static void __attribute__((noreturn)) give_up(const char *what) {
  say("init: %s: %s", what, strerror(errno));
  end();
}

static void load_module(const char *name, const char *parameters) {
  int fd = open(name, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || syscall(SYS_finit_module, fd, parameters, 0)) give_up(name);
  close(fd);
}

/* With less than 512 MiB Linux forgets the parameter transparent_hugepage=always. */
static void want_huge_pages(void) {
  int fd = open(HUGE_PAGES, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, "always", 6) != 6) give_up(HUGE_PAGES);
  close(fd);
}

static void prepare_linux(void) {
  const char *options = getenv("x2apic_kvm");
  if (iopl(3)) _exit(1);
  mkdir("/dev", 0755), mkdir("/proc", 0755), mkdir("/sys", 0755), mkdir("/run", 0755);
  if (mount("dev", "/dev", "devtmpfs", 0, NULL) || mount("proc", "/proc", "proc", 0, NULL) ||
      mount("sys", "/sys", "sysfs", 0, NULL) || mount("run", "/run", "tmpfs", 0, "huge=always"))
    give_up("mount");
  want_huge_pages();
  load_module("/irqbypass.ko", "");
  load_module("/kvm.ko", "");
  load_module("/kvm-intel.ko", options ? options : "");
}

static void read_work(void) {
  ata_read(&work, WORK_SECTOR, sizeof(work));
  if (work.magic != WORK_MAGIC || work.batches > MOST_BATCHES) give_up("no work on the disk");
  next_result = work.results;
}

static void __attribute__((noreturn)) without_apicv(const char *why) {
  say("init: no APICv: %s; leave `apicv` out of the subject's start, or see backends/kvm/emulated/README.md",
      why);
  end();
}

/* APICv is on where it was asked for, and VM entry works with it; or nothing runs. */
static void prepare_apicv(void) {
  char on = 0;
  u32 tried;
  int fd;
  if (!work.aligned) return;
  fd = open(APICV, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || read(fd, &on, 1) != 1 || on != 'Y')
    without_apicv("this processor has not what KVM wants for it");
  close(fd);
  tried = descriptors_align(work.aligned);
  if (!tried) without_apicv("VM entry takes no posted-interrupt descriptor where this kernel lays them");
  say("init: APICv: %u objects tried, %u with an aligned descriptor wanted", tried, work.aligned);
}

static u8 *map_rom(void) {
  u8 *rom;
  int fd = open(ROM, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, ROM_SIZE)) give_up(ROM);
  rom = mmap(NULL, ROM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (rom == MAP_FAILED) give_up(ROM);
  close(fd);
  ata_read(rom + BATCH_ROOM, work.probe, work.probe_bytes);
  return rom;
}

/* How many cases began, as the probe counts them before its frames. */
static u32 begun(void) {
  u64 count = 0;
  int fd = open(FRAMES, O_RDONLY | O_CLOEXEC);
  if (fd >= 0 && pread(fd, &count, sizeof(count), 0) != sizeof(count)) count = 0;
  if (fd >= 0) close(fd);
  return (u32)count;
}

/* Returns the launcher's wait status. */
static u32 run_launcher(void) {
  char patience[12];
  pid_t child;
  int status = 0;
  snprintf(patience, sizeof(patience), "%u", work.patience);
  unlink(FRAMES);
  child = fork();
  if (child < 0) give_up("fork");
  if (!child) {
    close(STDOUT_FILENO), close(STDERR_FILENO); /* whose numbers come next */
    if (open("/dev/null", O_WRONLY) < 0 || open(SAID, O_WRONLY | O_CREAT | O_TRUNC, 0600) < 0) _exit(126);
    execl("/launcher", "/launcher", "-v", "-t", patience, "-o", FRAMES, ROM, NULL);
    _exit(127);
  }
  if (waitpid(child, &status, 0) != child) give_up("waitpid");
  return (u32)status;
}

/* Appends a result to the disk: header, `size` bytes of the frames, what the launcher said. */
static void write_result(struct host_result *r, const u8 *frames) {
  static u8 said[MOST_TEXT];
  ssize_t length;
  u32 sectors;
  u8 *all;
  int fd = open(SAID, O_RDONLY | O_CLOEXEC);
  length = fd < 0 ? 0 : read(fd, said, sizeof(said));
  if (fd >= 0) close(fd);
  r->text = length < 0 ? 0 : (u32)length;
  sectors = (u32)((sizeof(*r) + r->frames + r->text + SECTOR - 1) / SECTOR);
  if (next_result + sectors > work.last + 1) {
    errno = ENOSPC;
    give_up("results");
  }
  all = mmap(NULL, sectors * SECTOR, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED) give_up("results");
  memcpy(all, r, sizeof(*r));
  memcpy(all + sizeof(*r), frames, r->frames);
  memcpy(all + sizeof(*r) + r->frames, said, r->text);
  ata_write(all, next_result, sectors * SECTOR);
  munmap(all, sectors * SECTOR);
  next_result += sectors;
}

/* Boots the ROM once; returns how many of its cases need no other boot. */
static u32 boot(const struct batch *batch, u32 number) {
  struct host_result r = {RESULT_MAGIC, number, batch->first, batch->count - batch->first, 0, 0, 0, 0};
  struct stat st;
  const u8 *frames = NULL;
  u32 over;
  int fd;
  r.status = run_launcher();
  r.begun = begun();
  fd = open(FRAMES, O_RDONLY | O_CLOEXEC);
  if (fd >= 0 && !fstat(fd, &st) && st.st_size > (off_t)sizeof(u64)) {
    frames = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (frames == MAP_FAILED) give_up(FRAMES);
    r.frames = frames_length(frames + sizeof(u64), (u32)st.st_size - (u32)sizeof(u64));
  }
  over = cases_over(frames ? frames + sizeof(u64) : NULL, r.frames, r.begun);
  write_result(&r, frames ? frames + sizeof(u64) : NULL);
  if (frames) munmap((void *)frames, (size_t)st.st_size);
  if (fd >= 0) close(fd);
  say("init: batch %u from case %u: %u of %u began, status %#x", number, r.first, r.begun, r.count, r.status);
  return over;
}

/* Boots a batch, and what is left of it, until nothing is. */
static void run_batch(u8 *rom, u32 number) {
  struct batch *batch = (struct batch *)rom;
  u32 over;
  if (work.batch[number].bytes > BATCH_ROOM) give_up("a batch larger than the ROM's room");
  ata_read(rom, work.batch[number].sector, work.batch[number].bytes);
  do {
    over = boot(batch, number);
    if (over == NOTHING_RAN) return;
    batch->first += over;
  } while (batch->first < batch->count);
}

int main(void) {
  u8 *rom;
  prepare_linux();
  read_work();
  prepare_apicv();
  say("init: ready, %u batches", work.batches);
  rom = map_rom();
  for (u32 i = 0; i < work.batches; i++) run_batch(rom, i);
  say("init: done");
  end();
}
