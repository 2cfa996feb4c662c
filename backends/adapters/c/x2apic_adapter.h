/* An adapter in C: all that stands between the conformance suite and a VMM (../README.md).
 *
 * In one of your files
 *
 *     #define X2APIC_ADAPTER_IMPLEMENTATION
 *     #include "x2apic_adapter.h"
 *
 * and in any others the include alone. Fill in a struct x2a_adapter and call x2a_serve. Your function gets a
 * case as a struct x2a_program: for each virtual processor a setup, and the steps of all. It fills in a
 * struct x2a_observation: what each VM entry, each step and each interrupt did, and the state at the end.
 *
 * C11 and its library, nothing else. Nothing is allocated: all has room for the largest case. */
#ifndef X2APIC_ADAPTER_H
#define X2APIC_ADAPTER_H

#include <stdbool.h>
#include <stdint.h>

#define X2A_VCPUS 8
#define X2A_STEPS 1024     /* of a case, without its handlers' */
#define X2A_ALL_STEPS 4096
#define X2A_HANDLERS 256   /* of one virtual processor */
#define X2A_FIELDS 128     /* VMCS fields of one setup or one VMM step */
#define X2A_MSR_ENTRIES 64 /* of one MSR area */
#define X2A_CHANGES 64     /* VMM steps */
#define X2A_WORDS 128      /* words of the page that one VMM step writes */
#define X2A_BARRIERS 256
#define X2A_PAGE 4096

enum x2a_level { X2A_VMX, X2A_GUEST };
enum x2a_apic_mode { X2A_XAPIC, X2A_X2APIC, X2A_DISABLED };

/* A VMCS field, with the value to write. */
struct x2a_field {
  uint32_t encoding;
  uint64_t value;
};

struct x2a_word {
  uint32_t offset, value;
};

/* An entry of an MSR area, as memory holds it. */
struct x2a_msr_entry {
  uint32_t msr, reserved;
  uint64_t value;
};
struct x2a_msr_list {
  unsigned count;
  struct x2a_msr_entry entry[X2A_MSR_ENTRIES];
};

/* What a vector's handler does before IRET: `count` steps from `first` on. */
struct x2a_handler {
  uint8_t vector;
  uint16_t first, count;
};

/* One virtual processor at its first VM entry. The addresses are those of its own structures, in the
 * memory that the adapter offered, whatever the VMCS fields say. */
struct x2a_setup {
  uint8_t apic_mode; /* of the physical APIC */
  bool interrupt_flag, trap_flag;
  uint8_t cpl;
  bool has_descriptor;
  uint64_t page_address, bitmap_address, descriptor_address;
  uint64_t descriptor[8], pid_pointer;
  unsigned fields, handlers;
  struct x2a_field field[X2A_FIELDS];
  struct x2a_handler handler[X2A_HANDLERS];
  struct x2a_handler other; /* of the vectors that are not listed: nothing, or one EOI */
  struct x2a_msr_list entry_load, exit_store, exit_load;
  uint8_t msr_bitmap[X2A_PAGE];
  uint8_t page[X2A_PAGE]; /* the virtual-APIC page */
};

/* What a VMM step changes. Of rvi, svi and interrupt_flag -1 means: as it is. */
struct x2a_change {
  int rvi, svi, interrupt_flag;
  bool has_bitmap;
  unsigned words, fields;
  struct x2a_word word[X2A_WORDS];
  struct x2a_field field[X2A_FIELDS];
  uint8_t msr_bitmap[X2A_PAGE];
};

enum x2a_action {
  X2A_RDMSR, /* arg: the MSR */
  X2A_WRMSR, /* arg: the MSR; value */
  X2A_READ_CR8,
  X2A_WRITE_CR8, /* value */
  X2A_STI,
  X2A_CLI,
  X2A_NOP,
  X2A_MOV_SS,
  X2A_HLT,
  X2A_SPIN, /* a bounded wait for an interrupt */
  X2A_VMCALL,
  X2A_CPUID,         /* arg: the leaf */
  X2A_MMIO_READ,     /* arg: the offset in the page at IA32_APIC_BASE */
  X2A_BARRIER,       /* arg: which, counted from 0; value: how many virtual processors wait there */
  X2A_POST,          /* arg: to; value: the vector to notify with, or -1; bits: PIR */
  X2A_SET_APIC_BASE, /* value, under mask */
  X2A_INIT_SIPI,     /* arg: to */
  X2A_DUMP_AT_RESET,
  X2A_VMM,         /* in root operation; arg: which struct x2a_change */
  X2A_INJECT,      /* in root operation; arg: the vector */
  X2A_RAISE,       /* in root operation; arg: the vector */
  X2A_POST_BY_VMM, /* in root operation; as X2A_POST */
};

struct x2a_step {
  uint8_t action, vcpu, cpl;
  bool garbage;     /* the upper halves of RAX, RCX and RDX hold ones before it */
  bool outstanding; /* of a post: ON is set, too */
  uint32_t arg;
  uint64_t value, mask;
  uint64_t bits[4];
};

static inline bool x2a_is_vmm(const struct x2a_step *step) { return step->action >= X2A_VMM; }

struct x2a_program {
  uint8_t level;
  unsigned vcpus;
  unsigned steps;         /* in the order of the case, from step[0] on */
  unsigned handler_steps; /* those of handlers, from step[X2A_STEPS] on */
  unsigned changes;
  uint64_t pid_pointer_table, apic_access_page, stale_page; /* addresses */
  struct x2a_step step[X2A_ALL_STEPS];
  struct x2a_change change[X2A_CHANGES];
  struct x2a_setup vcpu[X2A_VCPUS];
};

/* ---- The answer ---------------------------------------------------------------------------------- */

#define X2A_OUTCOMES 4096
#define X2A_RESULTS 4096
#define X2A_DELIVERIES 1024
#define X2A_NONE 0xffffu

enum x2a_outcome_kind {
  X2A_COMPLETED,
  X2A_VALUE, /* completed, with `value` */
  X2A_FAULT, /* vector in `value`, error code */
  X2A_VM_EXIT,
  X2A_VMFAIL_VALID, /* error in `value` */
  X2A_VMFAIL_INVALID,
  X2A_ENTRY_FAILURE, /* basic reason in `value`, qualification */
  X2A_VMX_ABORT,     /* indicator in `value` */
  X2A_NOT_REACHED,
  X2A_DID_NOT_RETURN,
  X2A_STAYS_HALTED,
  X2A_ENTERED, /* only of VM entries */
};
enum x2a_rip { X2A_SAME, X2A_NEXT, X2A_ELSEWHERE };

struct x2a_exit {
  uint32_t reason, interruption_information, idt_vectoring, instruction_length;
  uint64_t qualification;
  uint8_t rip, blocking, activity;
  bool registers_changed; /* RAX, RCX or RDX differ from what the step had loaded */
};
struct x2a_outcome {
  uint8_t kind;
  bool upper_set;     /* RDMSR left a bit of RAX[63:32] or RDX[63:32] set */
  bool no_error_code; /* of a fault */
  uint16_t next;
  uint32_t error_code;
  uint64_t value, qualification;
  struct x2a_exit exit;
};

/* An interrupt that a handler took; `results` are those of the handler's steps. `at` is the step, by its
 * index in the program, that the saved RIP points to; the number of steps at the end. */
struct x2a_delivery {
  uint8_t vector;
  uint16_t at, first, results, next;
};

/* What happened from the start of one step to the start of the next on the same processor. */
struct x2a_result {
  uint16_t outcome, last_outcome, delivery, last_delivery; /* lists, X2A_NONE where empty */
  bool has_physical;
  struct x2a_outcome physical; /* what the same RDMSR gave in root operation before the first VM entry */
};

struct x2a_register {
  uint32_t msr;
  uint64_t value;
};
struct x2a_final {
  uint8_t rvi, svi, activity, blocking;
  bool has_pid;
  uint64_t pid[8];
  unsigned words, registers;
  struct x2a_word word[X2A_PAGE / 4]; /* of its own page, those that differ from the setup */
  struct x2a_register reg[64]; /* of the physical APIC, those that differ from before the first entry */
};

struct x2a_observation {
  struct x2a_outcome entry[X2A_VCPUS];
  unsigned outcomes, results, deliveries;
  bool full; /* something did not fit: the case is broken, nothing of it counts */
  struct x2a_outcome outcome[X2A_OUTCOMES];
  struct x2a_result result[X2A_RESULTS]; /* the first are those of the program's steps */
  struct x2a_delivery delivery[X2A_DELIVERIES];
  struct x2a_final final[X2A_VCPUS];
};

static inline void x2a_new_result(struct x2a_result *r) {
  r->outcome = r->last_outcome = r->delivery = r->last_delivery = X2A_NONE;
  r->has_physical = false;
}

/* Begins an observation: every step has a result, and none has been reached. */
static inline void x2a_begin(struct x2a_observation *o, const struct x2a_program *p) {
  o->outcomes = o->deliveries = 0;
  o->full = false;
  o->results = p->steps;
  for (unsigned i = 0; i < p->steps; i++) x2a_new_result(&o->result[i]);
  for (unsigned i = 0; i < p->vcpus; i++) {
    o->entry[i] = (struct x2a_outcome){.kind = X2A_ENTERED};
    o->final[i].words = o->final[i].registers = 0;
  }
}

static inline void x2a_add_outcome(struct x2a_observation *o, unsigned result, struct x2a_outcome outcome) {
  struct x2a_result *r = &o->result[result];
  if (o->outcomes == X2A_OUTCOMES) {
    o->full = true;
    return;
  }
  outcome.next = X2A_NONE;
  o->outcome[o->outcomes] = outcome;
  if (r->outcome == X2A_NONE)
    r->outcome = (uint16_t)o->outcomes;
  else
    o->outcome[r->last_outcome].next = (uint16_t)o->outcomes;
  r->last_outcome = (uint16_t)o->outcomes++;
}

static inline void x2a_completed(struct x2a_observation *o, unsigned result) {
  x2a_add_outcome(o, result, (struct x2a_outcome){.kind = X2A_COMPLETED});
}

static inline void x2a_value(struct x2a_observation *o, unsigned result, uint64_t value) {
  x2a_add_outcome(o, result, (struct x2a_outcome){.kind = X2A_VALUE, .value = value});
}

/* Notes that an interrupt was taken in the time of a step; returns the index of the result of its
 * handler's first step. */
static inline unsigned x2a_delivered(struct x2a_observation *o, unsigned result, uint8_t vector, unsigned at,
                                     unsigned steps) {
  struct x2a_result *r = &o->result[result];
  struct x2a_delivery *d = &o->delivery[o->deliveries];
  if (o->deliveries == X2A_DELIVERIES || o->results + steps > X2A_RESULTS) {
    o->full = true;
    return 0;
  }
  *d = (struct x2a_delivery){vector, (uint16_t)at, (uint16_t)o->results, (uint16_t)steps, X2A_NONE};
  for (unsigned i = 0; i < steps; i++) x2a_new_result(&o->result[o->results++]);
  if (r->delivery == X2A_NONE)
    r->delivery = (uint16_t)o->deliveries;
  else
    o->delivery[r->last_delivery].next = (uint16_t)o->deliveries;
  r->last_delivery = (uint16_t)o->deliveries++;
  return d->first;
}

/* ---- The conversation ---------------------------------------------------------------------------- */

enum x2a_answer { X2A_OBSERVED, X2A_UNSUPPORTED, X2A_BROKEN };

struct x2a_adapter {
  const char *name, *version;
  bool vmx, guest; /* the levels */
  unsigned vcpus; /* the most of one case */
  unsigned batch; /* the most cases at once */
  uint64_t memory; /* 1 MByte for the structures that VMCS fields lead to, aligned to 64 KBytes */
  unsigned physical_address_width;
  bool x2apic;
  uint32_t apic_version; /* MSR 803H */
  unsigned msrs;
  struct x2a_register msr[19]; /* the VMX capability MSRs, 480H-492H, that exist */
  /* Runs one case. *reason says what is unsupported or broken. */
  enum x2a_answer (*run)(const struct x2a_program *p, struct x2a_observation *o, const char **reason);
};

/* Speaks the protocol on standard input and output until the runner stops; returns the exit status. What
 * cannot be read is said on standard error, with the place, and ends the adapter with 2. */
int x2a_serve(const struct x2a_adapter *adapter);

#endif

#ifdef X2APIC_ADAPTER_IMPLEMENTATION
#undef X2APIC_ADAPTER_IMPLEMENTATION

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define X2A_LINE 1048576 /* the longest line, either way */
#define X2A_NAME 32 /* the longest name that the protocol's keys and words have */

/* ---- Reading. An object's keys may come in any order; one that is unknown is an error. ---- */

struct x2a_scanner {
  const char *begin, *at, *error, *failed;
  char about[X2A_NAME]; /* the key that is being read */
};

static void x2a_fail(struct x2a_scanner *s, const char *error) {
  if (s->error) return;
  s->error = error;
  s->failed = s->at;
  s->at = ""; /* nothing more is read */
}

static bool x2a_take(struct x2a_scanner *s, char c) {
  while (*s->at == ' ' || *s->at == '\t' || *s->at == '\r' || *s->at == '\n') s->at++;
  if (*s->at != c) return false;
  s->at++;
  return true;
}

static void x2a_want(struct x2a_scanner *s, char c) {
  static const char *const errors[] = {"'{' expected", "'[' expected", "']' expected", "':' expected",
                                       "'\"' expected"};
  static const char wanted[] = "{[]:\"";
  if (!x2a_take(s, c)) x2a_fail(s, errors[strchr(wanted, c) - wanted]);
}

static bool x2a_null(struct x2a_scanner *s) {
  if (!x2a_take(s, 'n')) return false;
  if (strncmp(s->at, "ull", 3))
    x2a_fail(s, "null expected");
  else
    s->at += 3;
  return true;
}

/* A string without escapes: the protocol has no others. */
static void x2a_text(struct x2a_scanner *s, char *to, size_t room) {
  size_t length = 0;
  x2a_want(s, '"');
  while (*s->at && *s->at != '"' && *s->at != '\\' && length + 1 < room) to[length++] = *s->at++;
  to[length] = 0;
  if (!s->error && *s->at != '"') x2a_fail(s, "a string that is too long, has an escape or does not end");
  if (!s->error) s->at++;
}

static bool x2a_item(struct x2a_scanner *s, bool *first, char end) {
  if (s->error || x2a_take(s, end)) return false;
  if (!*first && !x2a_take(s, ',')) x2a_fail(s, "',' or the end of a list or object expected");
  *first = false;
  return !s->error;
}

/* for (bool first = x2a_open(s, '{'); x2a_key(s, &first, key);) reads an object, key by key. */
static bool x2a_open(struct x2a_scanner *s, char c) {
  x2a_want(s, c);
  return true;
}

static bool x2a_element(struct x2a_scanner *s, bool *first) { return x2a_item(s, first, ']'); }

static bool x2a_key(struct x2a_scanner *s, bool *first, char key[X2A_NAME]) {
  if (!x2a_item(s, first, '}')) return false;
  x2a_text(s, key, X2A_NAME);
  x2a_want(s, ':');
  if (!s->error) memcpy(s->about, key, X2A_NAME);
  return !s->error;
}

static uint64_t x2a_count(struct x2a_scanner *s, uint64_t most) {
  uint64_t value = 0;
  (void)x2a_take(s, ' ');
  if (*s->at < '0' || *s->at > '9') x2a_fail(s, "a number expected");
  while (*s->at >= '0' && *s->at <= '9' && value <= most) value = 10 * value + (uint64_t)(*s->at++ - '0');
  if (value > most) x2a_fail(s, "a number that is too large");
  return value > most ? 0 : value;
}

static int x2a_count_or_null(struct x2a_scanner *s, unsigned most) {
  return x2a_null(s) ? -1 : (int)x2a_count(s, most);
}

static int x2a_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* "0x1f" */
static uint64_t x2a_hex(struct x2a_scanner *s, uint64_t most) {
  uint64_t value = 0;
  x2a_want(s, '"');
  if (s->at[0] != '0' || (s->at[1] != 'x' && s->at[1] != 'X') || x2a_digit(s->at[2]) < 0) {
    x2a_fail(s, "a hexadecimal string expected, \"0x1f\"");
    return 0;
  }
  for (s->at += 2; x2a_digit(*s->at) >= 0; s->at++) {
    if (value > most >> 4) {
      x2a_fail(s, "a number that is too large");
      return 0;
    }
    value = value << 4 | (uint64_t)x2a_digit(*s->at);
  }
  x2a_want(s, '"');
  return value;
}

static uint32_t x2a_hex32(struct x2a_scanner *s) { return (uint32_t)x2a_hex(s, UINT32_MAX); }
static uint64_t x2a_hex64(struct x2a_scanner *s) { return x2a_hex(s, UINT64_MAX); }

/* The place of a word in a list that ends with a null pointer. */
static unsigned x2a_word_of(struct x2a_scanner *s, const char *const *words) {
  char word[X2A_NAME];
  x2a_text(s, word, sizeof word);
  for (unsigned i = 0; words[i]; i++)
    if (!strcmp(word, words[i])) return i;
  x2a_fail(s, "an unknown word");
  return 0;
}

/* Skips a list of strings: names beside numbers that say the same. */
static void x2a_skip_names(struct x2a_scanner *s) {
  char name[64];
  if (x2a_null(s)) return;
  for (bool first = x2a_open(s, '['); x2a_element(s, &first);) x2a_text(s, name, sizeof name);
}

#define X2A_ROOM(s, count, most, what)                                                                       \
  if ((count) == (most)) {                                                                                   \
    x2a_fail(s, "more " what " than this adapter has room for");                                             \
    return;                                                                                                  \
  }

/* Two hexadecimal strings in a list. */
static void x2a_pair(struct x2a_scanner *s, uint32_t *a, uint64_t *b) {
  x2a_want(s, '[');
  *a = x2a_hex32(s);
  if (!x2a_take(s, ',')) x2a_fail(s, "',' expected");
  *b = x2a_hex64(s);
  x2a_want(s, ']');
}

static void x2a_read_fields(struct x2a_scanner *s, struct x2a_field *field, unsigned *count) {
  char name[64];
  *count = 0;
  for (bool first = x2a_open(s, '['); x2a_element(s, &first);) {
    X2A_ROOM(s, *count, X2A_FIELDS, "VMCS fields")
    x2a_want(s, '[');
    field[*count].encoding = x2a_hex32(s);
    if (!x2a_take(s, ',')) x2a_fail(s, "',' expected");
    x2a_text(s, name, sizeof name);
    if (!x2a_take(s, ',')) x2a_fail(s, "',' expected");
    field[(*count)++].value = x2a_hex64(s);
    x2a_want(s, ']');
  }
}

static void x2a_set_word(struct x2a_scanner *s, uint8_t *page, uint32_t offset, uint32_t word) {
  if (offset > X2A_PAGE - 4 || offset % 4)
    x2a_fail(s, "an offset that is not in a page");
  else
    for (unsigned i = 0; i < 4; i++) page[offset + i] = (uint8_t)(word >> 8 * i);
}

static void x2a_fill(struct x2a_scanner *s, uint8_t *page, unsigned fill, uint32_t value) {
  static uint8_t tagged[X2A_PAGE];
  if (fill == 2 && !tagged[3])
    for (uint32_t at = 0; at < X2A_PAGE; at += 4)
      x2a_set_word(s, tagged, at, 0xa5000000 | at << 12 | at >> 2);
  if (fill == 2)
    memcpy(page, tagged, X2A_PAGE);
  else if (fill < 2)
    memset(page, fill ? 0xff : 0, X2A_PAGE);
  else
    for (uint32_t at = 0; at < X2A_PAGE; at += 4) x2a_set_word(s, page, at, value);
  memset(page + 0x81, 0, 3); /* VM entry may clear them */
}

static void x2a_read_words(struct x2a_scanner *s, struct x2a_word *word, unsigned *count, unsigned most) {
  uint64_t value;
  *count = 0;
  for (bool first = x2a_open(s, '['); x2a_element(s, &first);) {
    X2A_ROOM(s, *count, most, "words of a page")
    x2a_pair(s, &word[*count].offset, &value);
    if (value > UINT32_MAX) x2a_fail(s, "a number that is too large");
    word[(*count)++].value = (uint32_t)value;
  }
}

static void x2a_read_page(struct x2a_scanner *s, struct x2a_setup *setup) {
  static const char *const fills[] = {"zero", "ones", "tagged", "value", NULL};
  static struct x2a_word word[X2A_PAGE / 4];
  unsigned words = 0, fill = 0;
  uint32_t value = 0;
  char key[X2A_NAME];
  for (bool first = x2a_open(s, '{'); x2a_key(s, &first, key);) {
    if (!strcmp(key, "address"))
      setup->page_address = x2a_hex64(s);
    else if (!strcmp(key, "fill"))
      fill = x2a_word_of(s, fills);
    else if (!strcmp(key, "value"))
      value = x2a_hex32(s);
    else if (!strcmp(key, "words"))
      x2a_read_words(s, word, &words, X2A_PAGE / 4);
    else
      x2a_fail(s, "an unknown key");
  }
  x2a_fill(s, setup->page, fill, value);
  for (unsigned i = 0; i < words; i++) x2a_set_word(s, setup->page, word[i].offset, word[i].value);
}

/* SDM: "MSR-Bitmap Address". `map` is the first byte for reads or for writes. */
static void x2a_read_ranges(struct x2a_scanner *s, uint8_t *map) {
  for (bool first = x2a_open(s, '['); x2a_element(s, &first);) {
    uint32_t msr;
    uint64_t last;
    x2a_pair(s, &msr, &last);
    if (msr > last || (last > 0x1fff && (msr < 0xc0000000 || last > 0xc0001fff)))
      x2a_fail(s, "MSRs without a bit in the MSR bitmap");
    for (; !s->error && msr <= last; msr++)
      map[(msr >> 31) * 0x400 + (msr & 0x1fff) / 8] |= (uint8_t)(1 << msr % 8);
  }
}

static void x2a_read_bitmap(struct x2a_scanner *s, uint8_t *bitmap, uint64_t *address) {
  char key[X2A_NAME];
  memset(bitmap, 0, X2A_PAGE);
  for (bool first = x2a_open(s, '{'); x2a_key(s, &first, key);) {
    if (!strcmp(key, "address"))
      *address = x2a_hex64(s);
    else if (!strcmp(key, "reads"))
      x2a_read_ranges(s, bitmap);
    else if (!strcmp(key, "writes"))
      x2a_read_ranges(s, bitmap + 0x800);
    else
      x2a_fail(s, "an unknown key");
  }
}

static void x2a_read_descriptor(struct x2a_scanner *s, struct x2a_setup *setup) {
  char key[X2A_NAME];
  unsigned count = 0;
  for (bool first = x2a_open(s, '{'); x2a_key(s, &first, key);) {
    if (!strcmp(key, "address")) {
      setup->descriptor_address = x2a_hex64(s);
    } else if (!strcmp(key, "pid-pointer")) {
      setup->pid_pointer = x2a_hex64(s);
    } else if (!strcmp(key, "words")) {
      for (bool one = x2a_open(s, '['); x2a_element(s, &one);) {
        X2A_ROOM(s, count, 8, "words of a descriptor")
        setup->descriptor[count++] = x2a_hex64(s);
      }
    } else {
      x2a_fail(s, "an unknown key");
    }
  }
  if (count % 8) x2a_fail(s, "a descriptor that has neither 8 words nor none");
  setup->has_descriptor = count == 8;
}

static void x2a_read_msr_list(struct x2a_scanner *s, struct x2a_msr_list *list) {
  list->count = 0;
  for (bool first = x2a_open(s, '['); x2a_element(s, &first);) {
    X2A_ROOM(s, list->count, X2A_MSR_ENTRIES, "entries of an MSR area")
    list->entry[list->count].reserved = 0;
    x2a_pair(s, &list->entry[list->count].msr, &list->entry[list->count].value);
    list->count++;
  }
}

static void x2a_read_msr_lists(struct x2a_scanner *s, struct x2a_setup *setup) {
  char key[X2A_NAME];
  for (bool first = x2a_open(s, '{'); x2a_key(s, &first, key);) {
    if (!strcmp(key, "entry-load"))
      x2a_read_msr_list(s, &setup->entry_load);
    else if (!strcmp(key, "exit-store"))
      x2a_read_msr_list(s, &setup->exit_store);
    else if (!strcmp(key, "exit-load"))
      x2a_read_msr_list(s, &setup->exit_load);
    else
      x2a_fail(s, "an unknown key");
  }
}

static void x2a_read_guest(struct x2a_scanner *s, struct x2a_setup *setup) {
  char key[X2A_NAME];
  for (bool first = x2a_open(s, '{'); x2a_key(s, &first, key);) {
    if (!strcmp(key, "if"))
      setup->interrupt_flag = x2a_count(s, 1);
    else if (!strcmp(key, "tf"))
      setup->trap_flag = x2a_count(s, 1);
    else if (!strcmp(key, "cpl"))
      setup->cpl = (uint8_t)x2a_count(s, 3);
    else
      x2a_fail(s, "an unknown key");
  }
}

/* The number of a barrier's name. */
static uint32_t x2a_barrier(struct x2a_scanner *s, bool new_case) {
  static char names[X2A_BARRIERS][X2A_NAME * 4];
  static uint32_t count;
  if (new_case) count = 0;
  if (new_case) return 0;
  if (count == X2A_BARRIERS) {
    x2a_fail(s, "more barriers than this adapter has room for");
    return 0;
  }
  x2a_text(s, names[count], sizeof *names);
  for (uint32_t i = 0; i < count; i++)
    if (!strcmp(names[i], names[count])) return i;
  return count++;
}

static void x2a_read_vectors(struct x2a_scanner *s, struct x2a_step *step) {
  for (bool first = x2a_open(s, '['); x2a_element(s, &first);) {
    unsigned vector = (unsigned)x2a_count(s, 255);
    step->bits[vector / 64] |= 1ull << vector % 64;
  }
}

/* The keys of a step are those of every kind together; `has` notes which VMM step changes what. */
static bool x2a_read_change(struct x2a_scanner *s, const char *key, struct x2a_change *change) {
  uint64_t address;
  if (!strcmp(key, "words"))
    x2a_read_words(s, change->word, &change->words, X2A_WORDS);
  else if (!strcmp(key, "controls"))
    x2a_skip_names(s);
  else if (!strcmp(key, "fields"))
    x2a_read_fields(s, change->field, &change->fields);
  else if (!strcmp(key, "rvi"))
    change->rvi = x2a_count_or_null(s, 255);
  else if (!strcmp(key, "svi"))
    change->svi = x2a_count_or_null(s, 255);
  else if (!strcmp(key, "if"))
    change->interrupt_flag = x2a_count_or_null(s, 1);
  else if (strcmp(key, "msr-bitmap"))
    return false;
  else if (!x2a_null(s)) {
    x2a_read_bitmap(s, change->msr_bitmap, &address);
    change->has_bitmap = true;
  }
  return true;
}

/* Whether a step is one of an MSR, an offset, a vector and the like. */
static bool x2a_wants_arg(uint8_t action) {
  return action <= X2A_WRMSR || (action >= X2A_CPUID && action <= X2A_POST) || action == X2A_INIT_SIPI ||
         action > X2A_VMM;
}

static void x2a_read_step(struct x2a_scanner *s, struct x2a_program *p, struct x2a_step *step) {
  static const char *const actions[] = {
      "rdmsr",     "wrmsr",         "read-cr8", "write-cr8", "sti",       "cli",     "nop",  "mov-ss",
      "hlt",       "spin",          "vmcall",   "cpuid",     "mmio-read", "barrier", "post", "set-apic-base",
      "init-sipi", "dump-at-reset", "vmm",      "inject",    "raise",     NULL};
  static const char *const agents[] = {"guest", "vmm", NULL};
  char key[X2A_NAME];
  bool by_vmm = false, has_arg = false;
  struct x2a_change *change = &p->change[p->changes < X2A_CHANGES ? p->changes : 0];
  *step = (struct x2a_step){.mask = UINT64_MAX};
  change->rvi = change->svi = change->interrupt_flag = -1;
  change->words = change->fields = 0;
  change->has_bitmap = false;
  for (bool first = x2a_open(s, '{'); x2a_key(s, &first, key);) {
    if (!strcmp(key, "step"))
      step->action = (uint8_t)x2a_word_of(s, actions);
    else if (!strcmp(key, "vcpu"))
      step->vcpu = (uint8_t)x2a_count(s, X2A_VCPUS - 1);
    else if (!strcmp(key, "cpl"))
      step->cpl = (uint8_t)x2a_count(s, 3);
    else if (!strcmp(key, "garbage"))
      step->garbage = x2a_count(s, 1);
    else if (!strcmp(key, "value"))
      step->value = x2a_hex64(s);
    else if (!strcmp(key, "mask"))
      step->mask = x2a_hex64(s);
    else if (!strcmp(key, "msr") || !strcmp(key, "leaf") || !strcmp(key, "offset"))
      has_arg = true, step->arg = x2a_hex32(s);
    else if (!strcmp(key, "name"))
      has_arg = true, step->arg = x2a_barrier(s, false);
    else if (!strcmp(key, "waiting"))
      step->value = x2a_count(s, X2A_VCPUS);
    else if (!strcmp(key, "to"))
      has_arg = true, step->arg = (uint32_t)x2a_count(s, X2A_VCPUS - 1);
    else if (!strcmp(key, "vector"))
      has_arg = true, step->arg = (uint32_t)x2a_count(s, 255);
    else if (!strcmp(key, "vectors"))
      x2a_read_vectors(s, step);
    else if (!strcmp(key, "outstanding"))
      step->outstanding = x2a_count(s, 1);
    else if (!strcmp(key, "notify"))
      step->value = (uint64_t)(int64_t)x2a_count_or_null(s, 255);
    else if (!strcmp(key, "by"))
      by_vmm = x2a_word_of(s, agents) == 1;
    else if (!x2a_read_change(s, key, change))
      x2a_fail(s, "an unknown key");
  }
  if (step->cpl % 3) x2a_fail(s, "a CPL that is neither 0 nor 3");
  if (x2a_wants_arg(step->action) && !has_arg) x2a_fail(s, "a step without what it is about");
  if (step->action == X2A_POST && by_vmm) step->action = X2A_POST_BY_VMM;
  if (step->action != X2A_VMM) return;
  X2A_ROOM(s, p->changes, X2A_CHANGES, "VMM steps")
  step->arg = p->changes++;
}

static void x2a_read_handler_steps(struct x2a_scanner *s, struct x2a_program *p, struct x2a_handler *h) {
  h->first = (uint16_t)(X2A_STEPS + p->handler_steps);
  for (bool first = x2a_open(s, '['); x2a_element(s, &first); h->count++) {
    X2A_ROOM(s, p->handler_steps, X2A_ALL_STEPS - X2A_STEPS, "steps of handlers")
    x2a_read_step(s, p, &p->step[X2A_STEPS + p->handler_steps++]);
  }
}

static void x2a_read_handlers(struct x2a_scanner *s, struct x2a_program *p, struct x2a_setup *setup) {
  char key[X2A_NAME];
  setup->handlers = 0;
  for (bool one = x2a_open(s, '['); x2a_element(s, &one);) {
    struct x2a_handler *h = &setup->handler[setup->handlers];
    X2A_ROOM(s, setup->handlers, X2A_HANDLERS, "handlers")
    *h = (struct x2a_handler){0};
    for (bool first = x2a_open(s, '{'); x2a_key(s, &first, key);) {
      if (!strcmp(key, "vector"))
        h->vector = (uint8_t)x2a_count(s, 255);
      else if (!strcmp(key, "steps"))
        x2a_read_handler_steps(s, p, h);
      else
        x2a_fail(s, "an unknown key");
    }
    setup->handlers++;
  }
}

static void x2a_read_eoi(struct x2a_scanner *s, struct x2a_program *p, struct x2a_setup *setup) {
  setup->other = (struct x2a_handler){0};
  if (!x2a_count(s, 1)) return;
  X2A_ROOM(s, p->handler_steps, X2A_ALL_STEPS - X2A_STEPS, "steps of handlers")
  setup->other.first = (uint16_t)(X2A_STEPS + p->handler_steps);
  setup->other.count = 1;
  p->step[X2A_STEPS + p->handler_steps++] = (struct x2a_step){.action = X2A_WRMSR, .arg = 0x80b};
}

static void x2a_read_setup(struct x2a_scanner *s, struct x2a_program *p, struct x2a_setup *setup) {
  static const char *const modes[] = {"xapic", "x2apic", "disabled", NULL};
  char key[X2A_NAME];
  for (bool first = x2a_open(s, '{'); x2a_key(s, &first, key);) {
    if (!strcmp(key, "apic-mode"))
      setup->apic_mode = (uint8_t)x2a_word_of(s, modes);
    else if (!strcmp(key, "controls"))
      x2a_skip_names(s);
    else if (!strcmp(key, "fields"))
      x2a_read_fields(s, setup->field, &setup->fields);
    else if (!strcmp(key, "virtual-apic-page"))
      x2a_read_page(s, setup);
    else if (!strcmp(key, "msr-bitmap"))
      x2a_read_bitmap(s, setup->msr_bitmap, &setup->bitmap_address);
    else if (!strcmp(key, "descriptor"))
      x2a_read_descriptor(s, setup);
    else if (!strcmp(key, "msr-lists"))
      x2a_read_msr_lists(s, setup);
    else if (!strcmp(key, "guest"))
      x2a_read_guest(s, setup);
    else if (!strcmp(key, "handlers"))
      x2a_read_handlers(s, p, setup);
    else if (!strcmp(key, "eoi"))
      x2a_read_eoi(s, p, setup);
    else
      x2a_fail(s, "an unknown key");
  }
}

static void x2a_read_setups(struct x2a_scanner *s, struct x2a_program *p) {
  for (bool first = x2a_open(s, '['); x2a_element(s, &first);) {
    X2A_ROOM(s, p->vcpus, X2A_VCPUS, "virtual processors")
    x2a_read_setup(s, p, &p->vcpu[p->vcpus++]);
  }
}

static void x2a_read_steps(struct x2a_scanner *s, struct x2a_program *p) {
  for (bool first = x2a_open(s, '['); x2a_element(s, &first);) {
    X2A_ROOM(s, p->steps, X2A_STEPS, "steps")
    x2a_read_step(s, p, &p->step[p->steps++]);
  }
}

static void x2a_read_shared(struct x2a_scanner *s, struct x2a_program *p) {
  char key[X2A_NAME];
  for (bool first = x2a_open(s, '{'); x2a_key(s, &first, key);) {
    if (!strcmp(key, "pid-pointer-table"))
      p->pid_pointer_table = x2a_hex64(s);
    else if (!strcmp(key, "apic-access-page"))
      p->apic_access_page = x2a_hex64(s);
    else if (!strcmp(key, "stale-page"))
      p->stale_page = x2a_hex64(s);
    else
      x2a_fail(s, "an unknown key");
  }
}

/* Steps are of, and speak of, virtual processors that are there. */
static void x2a_check_processors(struct x2a_scanner *s, const struct x2a_program *p, unsigned first,
                                 unsigned count) {
  for (const struct x2a_step *step = p->step + first; count; step++, count--) {
    bool speaks_of_one =
        step->action == X2A_POST || step->action == X2A_POST_BY_VMM || step->action == X2A_INIT_SIPI;
    if (step->vcpu >= p->vcpus || (speaks_of_one && step->arg >= p->vcpus))
      x2a_fail(s, "a step of a virtual processor that is not there");
  }
}

enum x2a_message { X2A_HELLO, X2A_RUN, X2A_STOP };

struct x2a_line {
  unsigned message, protocol, seq, left;
  bool has_seq, has_steps;
};

static void x2a_read_line(struct x2a_scanner *s, struct x2a_line *line, struct x2a_program *p) {
  static const char *const messages[] = {"hello", "run", "stop", NULL};
  static const char *const levels[] = {"vmx", "guest", NULL};
  char key[X2A_NAME];
  *line = (struct x2a_line){.message = X2A_STOP + 1};
  p->vcpus = p->steps = p->handler_steps = p->changes = 0;
  (void)x2a_barrier(s, true);
  for (bool first = x2a_open(s, '{'); x2a_key(s, &first, key);) {
    if (!strcmp(key, "message"))
      line->message = x2a_word_of(s, messages);
    else if (!strcmp(key, "protocol"))
      line->protocol = (unsigned)x2a_count(s, INT32_MAX);
    else if (!strcmp(key, "seq"))
      line->seq = (unsigned)x2a_count(s, INT32_MAX), line->has_seq = true;
    else if (!strcmp(key, "left"))
      line->left = (unsigned)x2a_count(s, INT32_MAX);
    else if (!strcmp(key, "level"))
      p->level = (uint8_t)x2a_word_of(s, levels);
    else if (!strcmp(key, "shared"))
      x2a_read_shared(s, p);
    else if (!strcmp(key, "vcpus"))
      x2a_read_setups(s, p);
    else if (!strcmp(key, "steps"))
      x2a_read_steps(s, p), line->has_steps = true;
    else
      x2a_fail(s, "an unknown key");
  }
  if (!s->error) s->about[0] = 0;
  if (!x2a_take(s, 0)) x2a_fail(s, "something behind the object");
  if (line->message > X2A_STOP) x2a_fail(s, "no message");
  if (line->message == X2A_RUN && (!line->has_seq || !line->has_steps || !p->vcpus))
    x2a_fail(s, "a run without seq, vcpus or steps");
  x2a_check_processors(s, p, 0, p->steps);
  x2a_check_processors(s, p, X2A_STEPS, p->handler_steps);
}

/* ---- Writing ---- */

struct x2a_writer {
  size_t length;
  bool full;
  char text[X2A_LINE];
};

static void x2a_put(struct x2a_writer *w, const char *text) {
  size_t length = strlen(text);
  if (w->length + length > sizeof w->text) w->full = true;
  if (w->full) return;
  memcpy(w->text + w->length, text, length);
  w->length += length;
}

static void x2a_put_number(struct x2a_writer *w, uint64_t value, unsigned base) {
  char digits[24], *at = digits + sizeof digits - 1;
  *at = 0;
  do *--at = "0123456789abcdef"[value % base];
  while (value /= base);
  x2a_put(w, at);
}

static void x2a_put_count(struct x2a_writer *w, const char *before, uint64_t value) {
  x2a_put(w, before);
  x2a_put_number(w, value, 10);
}

static void x2a_put_hex(struct x2a_writer *w, const char *before, uint64_t value) {
  x2a_put(w, before);
  x2a_put(w, "\"0x");
  x2a_put_number(w, value, 16);
  x2a_put(w, "\"");
}

/* Text for people, without what JSON would escape. */
static void x2a_put_text(struct x2a_writer *w, const char *before, const char *text) {
  char one[2] = {0};
  x2a_put(w, before);
  x2a_put(w, "\"");
  for (unsigned i = 0; text[i] && i < 400; i++) {
    one[0] = text[i] < ' ' || text[i] > '~' || text[i] == '"' || text[i] == '\\' ? '\'' : text[i];
    x2a_put(w, one);
  }
  x2a_put(w, "\"");
}

static void x2a_put_exit(struct x2a_writer *w, const struct x2a_exit *e) {
  static const char *const rips[] = {"same", "next", "elsewhere"};
  x2a_put_hex(w, ",\"reason\":", e->reason);
  x2a_put_hex(w, ",\"qualification\":", e->qualification);
  x2a_put_text(w, ",\"rip\":", rips[e->rip]);
  x2a_put_hex(w, ",\"interruption-information\":", e->interruption_information);
  x2a_put_hex(w, ",\"idt-vectoring\":", e->idt_vectoring);
  x2a_put_count(w, ",\"instruction-length\":", e->instruction_length);
  x2a_put_count(w, ",\"blocking\":", e->blocking);
  x2a_put_count(w, ",\"activity\":", e->activity);
  x2a_put_count(w, ",\"registers-kept\":", !e->registers_changed);
}

static void x2a_put_outcome(struct x2a_writer *w, const struct x2a_outcome *o) {
  static const char *const kinds[] = {"completed",    "value",          "fault",         "exit",
                                      "vmfail-valid", "vmfail-invalid", "entry-failure", "vmx-abort",
                                      "not-reached",  "did-not-return", "stays-halted",  "entered"};
  x2a_put_text(w, "{\"outcome\":", kinds[o->kind]);
  switch (o->kind) {
    case X2A_VALUE:
      x2a_put_hex(w, ",\"value\":", o->value);
      x2a_put_count(w, ",\"upper-clear\":", !o->upper_set);
      break;
    case X2A_FAULT:
      x2a_put_count(w, ",\"vector\":", o->value);
      if (o->no_error_code)
        x2a_put(w, ",\"error-code\":null");
      else
        x2a_put_count(w, ",\"error-code\":", o->error_code);
      break;
    case X2A_VM_EXIT: x2a_put_exit(w, &o->exit); break;
    case X2A_VMFAIL_VALID: x2a_put_count(w, ",\"error\":", o->value); break;
    case X2A_ENTRY_FAILURE:
      x2a_put_hex(w, ",\"reason\":", o->value);
      x2a_put_hex(w, ",\"qualification\":", o->qualification);
      break;
    case X2A_VMX_ABORT: x2a_put_count(w, ",\"indicator\":", o->value); break;
  }
  x2a_put(w, "}");
}

static void x2a_put_results(struct x2a_writer *w, const struct x2a_observation *o, unsigned first,
                            unsigned count);

static void x2a_put_result(struct x2a_writer *w, const struct x2a_observation *o,
                           const struct x2a_result *r) {
  x2a_put(w, "{\"outcomes\":[");
  if (r->outcome == X2A_NONE) x2a_put(w, "{\"outcome\":\"not-reached\"}");
  for (unsigned i = r->outcome; i != X2A_NONE; i = o->outcome[i].next) {
    x2a_put_outcome(w, &o->outcome[i]);
    if (o->outcome[i].next != X2A_NONE) x2a_put(w, ",");
  }
  x2a_put(w, "],\"delivered\":[");
  for (unsigned i = r->delivery; i != X2A_NONE; i = o->delivery[i].next) {
    const struct x2a_delivery *d = &o->delivery[i];
    x2a_put_count(w, "{\"vector\":", d->vector);
    x2a_put_count(w, ",\"at\":", d->at);
    x2a_put(w, ",\"steps\":");
    x2a_put_results(w, o, d->first, d->results);
    x2a_put(w, d->next == X2A_NONE ? "}" : "},");
  }
  x2a_put(w, "],\"physical\":");
  if (r->has_physical)
    x2a_put_outcome(w, &r->physical);
  else
    x2a_put(w, "null");
  x2a_put(w, "}");
}

static void x2a_put_results(struct x2a_writer *w, const struct x2a_observation *o, unsigned first,
                            unsigned count) {
  x2a_put(w, "[");
  for (unsigned i = 0; i < count; i++) {
    if (i) x2a_put(w, ",");
    x2a_put_result(w, o, &o->result[first + i]);
  }
  x2a_put(w, "]");
}

static void x2a_put_pair(struct x2a_writer *w, bool first, uint64_t a, uint64_t b) {
  x2a_put_hex(w, first ? "[" : ",[", a);
  x2a_put_hex(w, ",", b);
  x2a_put(w, "]");
}

static void x2a_put_final(struct x2a_writer *w, const struct x2a_final *f) {
  x2a_put(w, "{\"page\":[");
  for (unsigned i = 0; i < f->words; i++) x2a_put_pair(w, !i, f->word[i].offset, f->word[i].value);
  x2a_put_count(w, "],\"rvi\":", f->rvi);
  x2a_put_count(w, ",\"svi\":", f->svi);
  x2a_put(w, ",\"pid\":[");
  for (unsigned i = 0; f->has_pid && i < 8; i++) x2a_put_hex(w, i ? "," : "", f->pid[i]);
  x2a_put(w, "],\"physical\":[");
  for (unsigned i = 0; i < f->registers; i++) x2a_put_pair(w, !i, f->reg[i].msr, f->reg[i].value);
  x2a_put_count(w, "],\"activity\":", f->activity);
  x2a_put_count(w, ",\"blocking\":", f->blocking);
  x2a_put(w, "}");
}

static void x2a_put_observation(struct x2a_writer *w, const struct x2a_program *p,
                                const struct x2a_observation *o) {
  x2a_put(w, ",\"entries\":[");
  for (unsigned i = 0; i < p->vcpus; i++) {
    if (i) x2a_put(w, ",");
    x2a_put_outcome(w, &o->entry[i]);
  }
  x2a_put(w, "],\"steps\":");
  x2a_put_results(w, o, 0, p->steps);
  x2a_put(w, ",\"finals\":[");
  for (unsigned i = 0; i < p->vcpus; i++) {
    if (i) x2a_put(w, ",");
    x2a_put_final(w, &o->final[i]);
  }
  x2a_put(w, "]}\n");
}

static void x2a_put_capabilities(struct x2a_writer *w, const struct x2a_adapter *a) {
  x2a_put_text(w, "{\"message\":\"capabilities\",\"protocol\":1,\"name\":", a->name);
  x2a_put_text(w, ",\"version\":", a->version);
  x2a_put(w, ",\"levels\":[");
  x2a_put(w, a->vmx ? a->guest ? "\"vmx\",\"guest\"" : "\"vmx\"" : "\"guest\"");
  x2a_put_count(w, "],\"vcpus\":", a->vcpus);
  x2a_put_count(w, ",\"batch\":", a->batch);
  x2a_put_hex(w, ",\"memory\":", a->memory);
  x2a_put_count(w, ",\"physical-address-width\":", a->physical_address_width);
  x2a_put_count(w, ",\"x2apic\":", a->x2apic);
  x2a_put_hex(w, ",\"apic-version\":", a->apic_version);
  x2a_put(w, ",\"msrs\":[");
  for (unsigned i = 0; i < a->msrs; i++) x2a_put_pair(w, !i, a->msr[i].msr, a->msr[i].value);
  x2a_put(w, "]}\n");
}

/* ---- The loop ---- */

static void x2a_put_reason(struct x2a_writer *w, const char *message, unsigned seq, const char *reason) {
  w->length = 0;
  w->full = false;
  x2a_put_text(w, "{\"message\":", message);
  x2a_put_count(w, ",\"seq\":", seq);
  x2a_put_text(w, ",\"reason\":", reason && *reason ? reason : "no reason given");
  x2a_put(w, "}\n");
}

static void x2a_answer_run(const struct x2a_adapter *a, const struct x2a_program *p, unsigned seq,
                           struct x2a_writer *w) {
  static struct x2a_observation o;
  const char *reason = NULL;
  enum x2a_answer answer;
  x2a_begin(&o, p);
  answer = a->run(p, &o, &reason);
  if (answer == X2A_UNSUPPORTED) {
    x2a_put_reason(w, "unsupported", seq, reason);
  } else if (answer == X2A_BROKEN) {
    x2a_put_reason(w, "broken", seq, reason);
  } else if (o.full) {
    x2a_put_reason(w, "broken", seq, "more happened than struct x2a_observation has room for");
  } else {
    x2a_put_count(w, "{\"message\":\"observation\",\"seq\":", seq);
    x2a_put_observation(w, p, &o);
    if (w->full) x2a_put_reason(w, "broken", seq, "the answer is longer than a line may be");
  }
}

static int x2a_complain(unsigned line, struct x2a_scanner *s, const char *error) {
  unsigned byte;
  x2a_fail(s, error);
  byte = (unsigned)(s->failed - s->begin) + 1;
  fprintf(stderr, "line %u, byte %u%s%s: %s\n", line, byte, *s->about ? ", " : "", s->about, s->error);
  return 2;
}

int x2a_serve(const struct x2a_adapter *a) {
  static char text[X2A_LINE + 2];
  static struct x2a_program p;
  static struct x2a_writer w;
  for (unsigned number = 1; fgets(text, sizeof text, stdin); number++) {
    struct x2a_scanner s = {.begin = text, .at = text};
    struct x2a_line line;
    if (!strchr(text, '\n')) return x2a_complain(number, &s, "a line that is too long, or does not end");
    x2a_read_line(&s, &line, &p);
    if (s.error) return x2a_complain(number, &s, s.error);
    w.length = 0;
    w.full = false;
    if (line.message == X2A_STOP) return 0;
    if (line.message == X2A_HELLO && line.protocol != 1)
      return x2a_complain(number, &s, "a protocol that is not 1");
    if (line.message == X2A_HELLO)
      x2a_put_capabilities(&w, a);
    else
      x2a_answer_run(a, &p, line.seq, &w);
    if (fwrite(w.text, 1, w.length, stdout) != w.length || fflush(stdout)) return 1;
  }
  return 0;
}

#endif
