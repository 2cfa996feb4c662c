/* What crosses between the runner and the probe; twin of backends/wire.py, which a test holds
 * against this header. Little-endian, naturally aligned, no implicit padding.
 *
 * In: one struct batch, then `count` records, each a struct wire_case followed by its
 * struct wire_vcpu blocks. Out: frames (struct frame + payload); what is outside frames is log. */
#ifndef WIRE_H
#define WIRE_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define WIRE_VERSION 1
#define BATCH_MAGIC 0x50413258u /* X2AP */
#define FRAME_MAGIC 0x46413258u /* X2AF */

#define BATCH_ROOM 0xd0000u    /* of 1 MiB: at a ROM's start, or behind the 192 KiB of a kernel's image */
#define RECORDS_BASE 0x800000u /* frames in RAM, for DOOR_MEMORY and DOOR_SHARED */
#define RECORDS_ROOM 0x1000000u

#define MAX_CPUS 8
#define MAX_SLOTS 384 /* steps of one virtual processor, those of its handlers included */

/* How frames leave the machine. */
#define DOOR_MEMORY 1 /* gathered at RECORDS_BASE, then a magic break for the debugger */
#define DOOR_E9 2     /* port E9H, a frame at a time */
#define DOOR_SHARED 3 /* gathered behind a u64 at RECORDS_BASE, the number of cases that began */

#define DOOR_SERIAL 4 /* COM1, a frame at a time */
#define DOOR_STEPPED 5 /* DOOR_SHARED, and around each guest in root operation a byte on port E9H */

#define GUEST_BEGINS 0xfc /* with DOOR_STEPPED: a launcher single-steps what comes now */
#define GUEST_ENDS 0xfd
#define PORT_YIELD 0xed /* see struct batch */
#define PROGRESS 0xfe /* a byte on port E9H before each case, DOOR_MEMORY only */

struct batch {
  u32 magic;
  u16 version;
  u16 header; /* sizeof(struct batch) */
  u32 size;   /* all of it, this header included */
  u32 crc;    /* CRC-32 of what follows this header */
  u32 count;  /* of cases */
  u32 cpus;   /* processors to start */
  u32 door;
  u32 limit; /* room for frames, in bytes */
  u64 guard; /* VMX-preemption timer, in TSC ticks; 0: no guard */
  u64 yields; /* a launcher sets it that has fewer processors than it shows: at level vmx a guest that waits
                 for another processor writes to PORT_YIELD, and the launcher lets that run */
  u32 first; /* cases that earlier boots have done, which also saw that the checksum is right */
  u32 unused;
  u64 reserved;
};

#define LEVEL_VMX 0
#define LEVEL_GUEST 1
#define MODE_XAPIC 0
#define MODE_X2APIC 1
#define MODE_DISABLED 2

struct wire_case {
  u32 size; /* with its blocks, a multiple of 8 */
  u32 seq;
  u8 level;
  u8 vcpus;
  u8 mode; /* of the physical APICs, in root operation */
  u8 reserved;
  u32 axes; /* of a product; 0: the record is one point, the only form so far */
};

#define FILL_ZERO 0
#define FILL_ONES 1
#define FILL_TAGGED 2
#define FILL_VALUE 3

#define GUEST_IF 0x1
#define GUEST_TF 0x2
#define GUEST_CPL3 0x4
#define GUEST_INIT 0x8 /* level guest: the case sends this processor an INIT */

/* Followed by items, words, ranges, ops, and for each handler a struct wire_handler and its ops. */
struct wire_vcpu {
  u32 size;
  u16 items;
  u16 words;
  u16 ranges;
  u16 ops;
  u16 handlers;
  u8 fill;
  u8 guest;
  u32 fill_value;
  u16 steps; /* slots of the main stream; the handlers' slots follow them */
  u16 slots; /* in all */
};

/* A VMCS field (what = encoding) or something beside the VMCS. */
#define ITEM_PID 0x10000 /* + index of a 64-bit word of the descriptor; HOW_OWN: and the own NDST */
#define ITEM_PID_POINTER 0x10010 /* HOW_FLIP: a bit of the descriptor's PID-pointer table entry */
#define ITEM_ENTRY_LOAD 0x10100 /* + index: MSR-list entry; `how` is the MSR */
#define ITEM_EXIT_STORE 0x10200
#define ITEM_EXIT_LOAD 0x10300

#define HOW_SET 0
#define HOW_CONTROL 1 /* value, with the bits that must be 1 */
#define HOW_FLIP 2    /* the bit that value names, inverted */
#define HOW_OWN 3     /* the field's own page + value */
#define HOW_OF_VCPU 4 /* the same of virtual processor how >> 8 */
#define HOW_STALE 5
#define HOW_APIC_ACCESS 6
#define HOW_BEYOND 7 /* own page, first bit beyond the physical-address width set */
#define HOW_LOW_BYTE 8
#define HOW_HIGH_BYTE 9

struct wire_item {
  u32 what;
  u32 how;
  u64 value;
};

struct wire_word {
  u32 offset;
  u32 value;
};

#define RANGE_READ 1
#define RANGE_WRITE 2

struct wire_range {
  u32 first;
  u32 last;
  u32 access;
  u32 reserved;
};

/* Guest operations. */
#define OP_RDMSR 1
#define OP_WRMSR 2
#define OP_READ_CR8 3
#define OP_WRITE_CR8 4
#define OP_STI 5
#define OP_CLI 6
#define OP_NOP 7
#define OP_MOV_SS 8
#define OP_HLT 9
#define OP_SPIN 10
#define OP_VMCALL 11
#define OP_CPUID 12
#define OP_MMIO_READ 13
#define OP_BARRIER 14  /* arg: which, value: how many wait there */
#define OP_PID_BIT 15  /* locked OR of bit `value` into the descriptor of virtual processor arg */
#define OP_SEND_IPI 16 /* WRMSR of the ICR: vector `value`, to the processor of virtual processor arg */
/* Level guest only. */
#define OP_APIC_MODE 17     /* WRMSR of IA32_APIC_BASE: bits 11:10 of value, the others as they are */
#define OP_INIT_SIPI 18     /* INIT and two start-up IPIs to the processor of virtual processor arg */
#define OP_WAIT_FOR_SIPI 19 /* HLT, until INIT and a start-up IPI lead behind it */
#define OP_AT_RESET 20      /* the registers that the case reports are those after reset */
/* VMM operations, in root operation. */
#define OP_FIRST_VMM 32
#define OP_ITEM 32         /* arg: what, flags: how, value */
#define OP_WORD 33         /* arg: page offset, value */
#define OP_BITMAP_CLEAR 34 /* no access exits */
#define OP_BITMAP_SET 35   /* arg: access, value: first | last << 32 */
#define OP_RAISE 36        /* a physical interrupt with vector arg */
#define OP_INTERRUPT_FLAG 37
#define OP_PID_BIT_VMM 38
#define OP_DONE 39          /* the VMM step is complete */
#define OP_SEND_IPI_VMM 40  /* as OP_SEND_IPI, in root operation */

#define OP_CPL3 0x40    /* in flags: at CPL 3 */
#define OP_GARBAGE 0x80 /* in flags: ones in the ignored register halves */

struct wire_op {
  u8 op;
  u8 flags;
  u16 slot;
  u32 arg;
  u64 value;
};

#define VECTOR_ANY 0xffff /* handler of all vectors without one of their own */

struct wire_handler {
  u16 vector;
  u16 ops;
  u32 reserved;
};

/* RAX and RDX before an RDMSR or a MOV from CR8. */
#define BEFORE_RAX 0x5a5ac3c3u
#define BEFORE_RDX 0x3c3ca5a5u

struct frame {
  u32 magic;
  u32 seq;    /* of the case; for BEGIN, END and ERROR the number of cases done */
  u32 length; /* of the payload */
  u32 crc;    /* CRC-32 of seq, length and payload */
};

#define FRAME_BEGIN 1
#define FRAME_CASE 2
#define FRAME_END 3
#define FRAME_ERROR 4 /* payload: kind, then text */

#define CAPABILITY_FIRST 0x480
#define CAPABILITIES 19
#define ABSENT 0xffffffffffffffffu

#define VMX_ABSENT 0
#define VMX_ROOT 1       /* in VMX root operation */
#define VMX_LOCKED_OFF 2 /* by the firmware, in IA32_FEATURE_CONTROL */

struct wire_begin {
  u32 kind;
  u32 count;
  u32 cpus; /* that answered */
  u32 vmx;  /* VMX_ROOT, or why not */
  u32 signature;
  u32 features; /* CPUID.01H:ECX */
  u32 physical_width;
  u32 apic_version;
  char vendor[16];
  u64 capability[CAPABILITIES]; /* MSRs 480H-492H, ABSENT where RDMSR faults */
};

#define END_COMPLETE 0
#define END_FULL 1  /* no room for the next frame */
#define END_DIRTY 2 /* the physical APIC could not be restored */
#define END_MODE 3  /* the next case's APIC mode could not be reached */

struct wire_end {
  u32 kind;
  u32 done; /* cases, counted from the first */
  u32 why;
  u32 reserved;
};

struct wire_result {
  u32 kind;
  u32 vcpus;
};

/* One virtual processor: followed by events, changed words (struct wire_word) of its page, changed
 * registers of the physical APIC (struct wire_register), and the descriptor (8 * u64) if pid: it is not
 * sent where all of it is 0. */
struct wire_final {
  u32 size;
  u32 events; /* bytes */
  u16 words;
  u16 registers;
  u16 pid;
  u16 lost;   /* 1: more events than room */
  u32 status; /* guest interrupt status: RVI, SVI << 8 */
  u16 activity;
  u16 blocking;
};

struct wire_register {
  u32 msr;
  u32 value;
};

/* Where an RIP points: a slot and flags. */
#define AT_START 0x1    /* the instruction of `slot` */
#define AT_PREVIOUS 0x2 /* right behind the instruction before `slot` */
#define AT_INSIDE 0x4   /* within `slot` */
#define AT_BETWEEN 0x8  /* on the way to `slot` */
#define AT_END 0x10     /* behind the last step; slot is the number of steps of the stream */
#define AT_HANDLER 0x20 /* the first instruction of the handler of vector `slot` */
#define AT_OTHER 0x40

#define EVENT_VALUE 1     /* a: RAX, b: RDX */
#define EVENT_FAULT 2     /* a: vector | error code << 32 */
#define EVENT_DELIVERY 3  /* a: vector */
#define EVENT_RETURN 4    /* a: vector; the handler's IRET is next */
#define EVENT_EXIT 5      /* a struct wire_exit */
#define EVENT_ENTRY 6     /* a: 1 VMfailInvalid, 2 VMfailValid; b: VM-instruction error */
#define EVENT_PHYSICAL 7  /* a: value, b: vector + 1 if it faulted */
#define EVENT_PERFORMED 8 /* a VMM step */
#define EVENT_END 9       /* the main stream has come to its end */

struct wire_event {
  u8 type;
  u8 at; /* AT_ flags */
  u16 slot;
  u32 reserved;
  u64 a;
  u64 b;
};

struct wire_exit {
  u8 type;
  u8 at;
  u16 slot;
  u32 reason;
  u64 qualification;
  u32 interruption;
  u32 vectoring;
  u32 length;
  u32 error_code;
  u16 blocking;
  u16 activity;
  u32 reserved;
  u64 rax;
  u64 rcx;
  u64 rdx;
};

#endif
