/* The table of a ColumnFold: numbers by key, and the fold of records into it.
 *
 * The table has open addresses, probed one after another.  It is larger than the cache, so the slots of
 * records are fetched some records ahead.  The upper bits of a key's hash are its place: the table grows
 * from front to back, without a jump.  A slot is free if its key is 0; the key 0 has an entry of its own.
 *
 * A sum of ints that outgrows 64 bits is put aside with its key, and begins anew.  At the end, Python
 * adds what was put aside. */

#ifndef MMGEVENT_BLOCK_TABLE_H
#define MMGEVENT_BLOCK_TABLE_H

#include <Python.h>
#include <stdint.h>

#include "_groups.h"

#define COLUMN_FIRST_SLOTS 1024    /* as FIRST_SLOTS of the twin */
#define COLUMN_MAX_SLOTS (UINT64_C(1) << 31)
#define COLUMN_AHEAD 24            /* records whose slots are fetched ahead: memory answers meanwhile */
#define COLUMN_MAX_PROBES 512      /* honest keys need a tenth of that; colliding ones get another hash */
#define COLUMN_MAX_RESEEDS 8
#define COLUMN_LEAST_ASIDE 64      /* sums that may be put aside, whatever the limit is */

#if defined(__GNUC__)
#define COLUMN_FETCH(place) __builtin_prefetch((place), 1)
#define COLUMN_INLINE static inline __attribute__((always_inline))
#else
#define COLUMN_FETCH(place) ((void)0)
#define COLUMN_INLINE static inline
#endif

union folded {
    int64_t whole;
    double real;
};

struct column_slot {
    uint64_t key; /* an int64, or the bits of a double */
    union folded value;
};

struct column_fold {
    PyObject_HEAD
    int is_real_key, is_real_value, op;
    struct column_slot *slots;
    uint64_t slot_count; /* a power of two */
    int shift;           /* 64 less the logarithm of slot_count */
    uint64_t size;       /* keys, without 0 */
    uint64_t most_keys;  /* at which the table is full */
    uint64_t seed;
    int reseeds;
    int has_zero, has_seen_zero;
    uint64_t zero_bits; /* of the first key 0: those of -0.0 are others; valid if has_seen_zero */
    struct column_slot zero;
    struct column_slot *aside; /* sums of ints that were put aside */
    uint64_t aside_size, aside_room, most_aside;
    struct column_slot *chunk; /* COLUMN_CHUNK records; NULL before they are needed */
    uint32_t *order;           /* numbers of slots by partition; slot_count is that of `zero` */
    uint64_t *starts;          /* of each partition in `order`, and the end; NULL before deal() */
    uint64_t partitions;
    PyObject *carried; /* owned: {place of a key: sum of what was put aside}, or NULL */
};

COLUMN_INLINE uint64_t
column_hash(const struct column_fold *self, uint64_t key)
{
    uint64_t hash = (key ^ self->seed) * UINT64_C(0x9E3779B97F4A7C15);

    hash ^= hash >> 32;
    return hash * UINT64_C(0xD6E8FEB86659FD93);
}

/* column_rehash -- give the table another number of slots, or another seed; 0, or -1 with MemoryError. */
static int
column_rehash(struct column_fold *self, uint64_t slot_count)
{
    struct column_slot *slots = NULL;
    const struct column_slot *const before = self->slots;
    const uint64_t count_before = self->slot_count;
    int bits = 0;

    if (slot_count > COLUMN_MAX_SLOTS || (slots = PyMem_Calloc((size_t)slot_count, sizeof *slots)) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    while (UINT64_C(1) << bits < slot_count) {
        bits++;
    }
    self->slots = slots;
    self->slot_count = slot_count;
    self->shift = 64 - bits;
    for (uint64_t i = 0; i < count_before; i++) {
        if (before[i].key != 0) {
            uint64_t at = column_hash(self, before[i].key) >> self->shift;
            while (slots[at].key != 0) {
                at = (at + 1) & (slot_count - 1);
            }
            slots[at] = before[i];
        }
    }
    PyMem_Free((void *)before);
    return 0;
}

/* column_put_aside -- keep a sum for the end; 0, or -1 with MemoryError. */
static int
column_put_aside(struct column_fold *self, uint64_t key, int64_t sum)
{
    if (self->aside_size == self->aside_room) {
        const uint64_t room = self->aside_room == 0 ? COLUMN_LEAST_ASIDE : 2 * self->aside_room;
        struct column_slot *aside = PyMem_Realloc(self->aside, (size_t)room * sizeof *aside);
        if (aside == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->aside = aside;
        self->aside_room = room;
    }
    self->aside[self->aside_size].key = key;
    self->aside[self->aside_size++].value.whole = sum;
    return 0;
}

/* column_combine -- fold a value into that of its key; 0, or -1 with MemoryError. */
COLUMN_INLINE int
column_combine(struct column_fold *self, struct column_slot *slot, union folded value, int op, int is_real)
{
    if (op == SUM && is_real) {
        slot->value.real += value.real;
    }
    else if (op == SUM || op == COUNT) {
        const int64_t sum = (int64_t)((uint64_t)slot->value.whole + (uint64_t)value.whole);
        if (((slot->value.whole ^ sum) & (value.whole ^ sum)) < 0) {
            if (column_put_aside(self, slot->key, slot->value.whole) < 0) {
                return -1;
            }
            slot->value.whole = value.whole;
            return 0;
        }
        slot->value.whole = sum;
    }
    else if (op == MIN) {
        if (is_real ? value.real < slot->value.real : value.whole < slot->value.whole) {
            slot->value = value;
        }
    }
    else if (op == MAX) {
        if (is_real ? value.real > slot->value.real : value.whole > slot->value.whole) {
            slot->value = value;
        }
    }
    return 0;
}

/* column_fold_run -- fold records; 0, or -1 with MemoryError. */
COLUMN_INLINE int
column_fold_run(struct column_fold *self, const struct column_slot *records, uint64_t count, int op, int is_real)
{
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t key = records[i].key;
        if (i + COLUMN_AHEAD < count) {
            COLUMN_FETCH(&self->slots[column_hash(self, records[i + COLUMN_AHEAD].key) >> self->shift]);
        }
        if (key == 0) {
            if (!self->has_zero) {
                self->has_zero = 1;
                self->zero.key = self->zero_bits;
                self->zero.value = records[i].value;
            }
            else if (column_combine(self, &self->zero, records[i].value, op, is_real) < 0) {
                return -1;
            }
            continue;
        }
        uint64_t at = column_hash(self, key) >> self->shift;
        uint64_t probes = 0;
        while (self->slots[at].key != key && self->slots[at].key != 0) {
            at = (at + 1) & (self->slot_count - 1);
            probes++;
        }
        if (self->slots[at].key == key) {
            if (column_combine(self, &self->slots[at], records[i].value, op, is_real) < 0) {
                return -1;
            }
            continue;
        }
        self->slots[at] = records[i];
        self->size++;
        if (self->size > self->slot_count / 8 * 5) {
            if (column_rehash(self, 2 * self->slot_count) < 0) {
                return -1;
            }
        }
        else if (probes > COLUMN_MAX_PROBES && self->reseeds < COLUMN_MAX_RESEEDS) {
            self->reseeds++;
            self->seed = self->seed * UINT64_C(0x5851F42D4C957F2D) + UINT64_C(0x14057B7EF767814F);
            if (column_rehash(self, self->slot_count) < 0) {
                return -1;
            }
        }
    }
    return 0;
}

/* column_fold_records -- column_fold_run() with the fold known to the compiler. */
static int
column_fold_records(struct column_fold *self, const struct column_slot *records, uint64_t count)
{
    switch (self->op * 2 + self->is_real_value) {
    case SUM * 2:
        return column_fold_run(self, records, count, SUM, 0);
    case SUM * 2 + 1:
        return column_fold_run(self, records, count, SUM, 1);
    case COUNT * 2:
    case COUNT * 2 + 1:
        return column_fold_run(self, records, count, COUNT, 0);
    case MIN * 2:
        return column_fold_run(self, records, count, MIN, 0);
    case MIN * 2 + 1:
        return column_fold_run(self, records, count, MIN, 1);
    case MAX * 2:
        return column_fold_run(self, records, count, MAX, 0);
    case MAX * 2 + 1:
        return column_fold_run(self, records, count, MAX, 1);
    default:
        return column_fold_run(self, records, count, FIRST, 0);
    }
}

static int
column_is_full(const struct column_fold *self)
{
    return self->size >= self->most_keys - self->most_keys / 16 || self->aside_size >= self->most_aside;
}

#endif
