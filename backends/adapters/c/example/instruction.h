/* An instruction that executes, and the ways in which it ends. */
#ifndef INSTRUCTION_H
#define INSTRUCTION_H

#include "machine.h"

#define GENERAL_PROTECTION 13
#define INVALID_OPCODE 6

struct instruction {
  const struct x2a_step *step;
  unsigned place, result;
  u8 cpl;
  bool trap_flag;
};

/* instructions.c */
void end_instruction(struct cpu *c, const struct instruction *i);
void completed(struct cpu *c, const struct instruction *i);
void completed_with(struct cpu *c, const struct instruction *i, u64 value);
void exit_of(struct cpu *c, const struct instruction *i, enum reason reason, u64 qualification, u32 length);
void fault(struct cpu *c, const struct instruction *i, u8 vector);

/* accesses.c */
void rdmsr(struct cpu *c, const struct instruction *i);
void wrmsr(struct cpu *c, const struct instruction *i, u32 msr, u64 value);
void read_cr8(struct cpu *c, const struct instruction *i);
void write_cr8(struct cpu *c, const struct instruction *i);

/* waits.c; false where the wait goes on without change */
bool spin(struct cpu *c, const struct instruction *i);
bool barrier(struct cpu *c, const struct instruction *i);
bool init_sipi(struct cpu *c, const struct instruction *i);

#endif
