/* The class ColumnFold: folds columns of numbers by key, without an object for each record.
 *
 * Keys and values are read from buffers (PEP 3118), as int64 or double, a chunk at a time.  Records are
 * folded in their order, so sums of floats are those of `_fallback.fold`.
 *
 * The table has open addresses, probed one after another.  It is larger than the cache, so the slots of
 * records are fetched some records ahead.  The upper bits of a key's hash are its place: the table grows
 * from front to back, without a jump.  A slot is free if its key is 0; the key 0 has an entry of its own.
 *
 * A sum of ints that outgrows 64 bits is put aside with its key, and begins anew.  At the end, Python
 * adds what was put aside.
 *
 * No user code runs while records are folded.  _block_fold.py is the specification; there are the
 * arguments and errors. */

#ifndef MMGEVENT_BLOCK_FOLD_H
#define MMGEVENT_BLOCK_FOLD_H

#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "_digest.h"
#include "_groups.h"

#define COLUMN_CHUNK 4096          /* records that are read at a time: 64 KiB stay in the cache */
#define COLUMN_FIRST_SLOTS 1024    /* as FIRST_SLOTS of the twin */
#define COLUMN_MAX_SLOTS (UINT64_C(1) << 31)
#define COLUMN_AHEAD 24            /* records whose slots are fetched ahead: memory answers meanwhile */
#define COLUMN_MAX_PROBES 512      /* honest keys need a tenth of that; colliding ones get another hash */
#define COLUMN_MAX_RESEEDS 8
#define COLUMN_LEAST_ASIDE 64      /* sums that may be put aside, whatever the limit is */
#define REAL_ZERO_MASK UINT64_C(0x7FFFFFFFFFFFFFFF) /* 0.0 and -0.0 are one key */
#define REAL_INFINITY UINT64_C(0x7FF0000000000000)  /* larger bits without the sign are NaNs */
#define REAL_NAN UINT64_C(0x7FF8000000000000)       /* all NaNs are one key */

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

#define READ_AS(type, field)                                                                       \
    for (uint64_t i = 0; i < count; i++, from += stride) {                                         \
        type number;                                                                               \
        memcpy(&number, from, sizeof number);                                                      \
        parsed.field = number;                                                                     \
        memcpy((char *)to + i * sizeof *self->chunk, &parsed, sizeof parsed);                      \
    }                                                                                              \
    return 1

/* column_read -- read numbers of a buffer into one field of the chunk.
 *
 * to  that field of the first record of the chunk.
 *
 * Returns 1, or 0 if a number does not fit 64 bits with a sign.  check_column() has checked the buffer. */
static int
column_read(const struct column_fold *self, const Py_buffer *view, uint64_t start, uint64_t count, void *to)
{
    const Py_ssize_t stride = view->strides[0];
    const char *from = (const char *)view->buf + (Py_ssize_t)start * stride;
    union folded parsed;

    switch (view->format[0]) {
    case 'b':
        READ_AS(signed char, whole);
    case 'B':
        READ_AS(unsigned char, whole);
    case 'h':
        READ_AS(short, whole);
    case 'H':
        READ_AS(unsigned short, whole);
    case 'i':
        READ_AS(int, whole);
    case 'I':
        READ_AS(unsigned int, whole);
    case 'l':
        READ_AS(long, whole);
    case 'q':
        READ_AS(long long, whole);
    case 'f':
        READ_AS(float, real);
    case 'd':
        READ_AS(double, real);
    default: /* L and Q: check_column() lets no other pass */
        for (uint64_t i = 0; i < count; i++, from += stride) {
            uint64_t number = 0;
            if (view->itemsize == (Py_ssize_t)sizeof number) {
                memcpy(&number, from, sizeof number);
            }
            else {
                uint32_t half = 0;
                memcpy(&half, from, sizeof half);
                number = half;
            }
            if (number > (uint64_t)INT64_MAX) {
                return 0;
            }
            parsed.whole = (int64_t)number;
            memcpy((char *)to + i * sizeof *self->chunk, &parsed, sizeof parsed);
        }
        return 1;
    }
}

/* column_unify_keys -- give equal floats in the chunk equal bits, and note which zero came first. */
static void
column_unify_keys(struct column_fold *self, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t bits = self->chunk[i].key & REAL_ZERO_MASK;
        if (bits > REAL_INFINITY) {
            self->chunk[i].key = REAL_NAN;
        }
        else if (bits == 0) {
            if (!self->has_seen_zero) {
                self->has_seen_zero = 1;
                self->zero_bits = self->chunk[i].key;
            }
            self->chunk[i].key = 0;
        }
    }
}

/* column_load -- read records of both buffers into the chunk; as column_read() returns. */
static int
column_load(struct column_fold *self, const Py_buffer *keys, const Py_buffer *values, uint64_t start, uint64_t count)
{
    if (values == NULL) { /* COUNT */
        for (uint64_t i = 0; i < count; i++) {
            self->chunk[i].value.whole = 1;
        }
    }
    else if (!column_read(self, values, start, count, &self->chunk->value)) {
        return 0;
    }
    if (!column_read(self, keys, start, count, &self->chunk->key)) {
        return 0;
    }
    if (self->is_real_key) {
        column_unify_keys(self, count);
    }
    return 1;
}

/* check_column -- 0 if a buffer is one column of numbers of the kind, else -1 with ValueError. */
static int
check_column(const Py_buffer *view, int is_real)
{
    static const struct {
        char format;
        size_t size;
    } kinds[] = {
        {'b', 1}, {'B', 1}, {'h', sizeof(short)}, {'H', sizeof(short)}, {'i', sizeof(int)},
        {'I', sizeof(int)}, {'l', sizeof(long)}, {'L', sizeof(long)}, {'q', sizeof(long long)},
        {'Q', sizeof(long long)}, {'f', sizeof(float)}, {'d', sizeof(double)},
    };

    if (view->ndim == 1 && view->format != NULL && view->format[0] != 0 && view->format[1] == 0
        && view->strides != NULL && view->shape != NULL && view->suboffsets == NULL) {
        for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
            if (kinds[i].format == view->format[0] && (size_t)view->itemsize == kinds[i].size
                && (i >= 10) == (is_real != 0)) {
                return 0;
            }
        }
    }
    PyErr_Format(
        PyExc_ValueError, "a column must be a buffer of %s in one dimension, got format %.20s",
        is_real ? "floats" : "ints", view->format == NULL ? "None" : view->format);
    return -1;
}

static int
column_is_full(const struct column_fold *self)
{
    return self->size >= self->most_keys - self->most_keys / 16 || self->aside_size >= self->most_aside;
}

/* column_allocate -- make the chunk buffer; 0, or -1 with MemoryError. */
static int
column_allocate(struct column_fold *self)
{
    if (self->chunk == NULL) {
        self->chunk = PyMem_Malloc(COLUMN_CHUNK * sizeof *self->chunk);
    }
    if (self->chunk == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* column_add_buffers -- fold records from `start` on.
 *
 * Returns where it stopped: at the end, or where the table is full, or before a chunk with a number
 * that does not fit; -1 with an exception. */
static int64_t
column_add_buffers(struct column_fold *self, const Py_buffer *keys, const Py_buffer *values, uint64_t start)
{
    const uint64_t end = (uint64_t)keys->shape[0];

    while (start < end && !column_is_full(self)) {
        uint64_t count = self->most_keys - self->size; /* a record adds one key at most */
        count = count > COLUMN_CHUNK ? COLUMN_CHUNK : count;
        count = count > end - start ? end - start : count;
        if (!column_load(self, keys, values, start, count)) {
            break;
        }
        if (column_fold_records(self, self->chunk, count) < 0 || PyErr_CheckSignals() < 0) {
            return -1;
        }
        start += count;
    }
    return (int64_t)start;
}

static PyObject *
column_fold_add(struct column_fold *self, PyObject *args)
{
    PyObject *key_object = NULL, *value_object = NULL; /* borrowed from args */
    Py_buffer keys = {0}, values = {0};
    Py_ssize_t start = 0;
    int64_t stop = -1;

    if (!PyArg_ParseTuple(args, "OOn", &key_object, &value_object, &start)) {
        return NULL;
    }
    if (self->starts != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a fold that was dealt out takes no more records");
        return NULL;
    }
    if (PyObject_GetBuffer(key_object, &keys, PyBUF_RECORDS_RO) < 0) {
        return NULL;
    }
    if (self->op != COUNT && PyObject_GetBuffer(value_object, &values, PyBUF_RECORDS_RO) < 0) {
        goto done;
    }
    if (check_column(&keys, self->is_real_key) < 0
        || (self->op != COUNT && check_column(&values, self->is_real_value) < 0)) {
        goto done;
    }
    if (start < 0 || start > keys.shape[0] || (self->op != COUNT && keys.shape[0] != values.shape[0])) {
        PyErr_SetString(PyExc_ValueError, "columns must be equally long, and the start must lie in them");
        goto done;
    }
    if (column_allocate(self) == 0) {
        stop = column_add_buffers(self, &keys, self->op == COUNT ? NULL : &values, (uint64_t)start);
    }
done:
    if (values.obj != NULL) {
        PyBuffer_Release(&values);
    }
    PyBuffer_Release(&keys);
    return stop < 0 ? NULL : PyLong_FromLongLong(stop);
}

/* column_absorb -- fold the entries of a fold of later records of the same kinds into this one. */
static PyObject *
column_fold_absorb(struct column_fold *self, PyObject *other)
{
    struct column_fold *later = (struct column_fold *)other;

    if (!Py_IS_TYPE(other, Py_TYPE((PyObject *)self)) || later == self || later->op != self->op
        || later->is_real_key != self->is_real_key || later->is_real_value != self->is_real_value
        || self->starts != NULL || later->starts != NULL) {
        PyErr_SetString(PyExc_ValueError, "a fold can take another of the same kinds only");
        return NULL;
    }
    for (uint64_t i = 0; i < later->slot_count; i++) {
        if (later->slots[i].key != 0 && column_fold_records(self, &later->slots[i], 1) < 0) {
            return NULL;
        }
    }
    if (later->has_zero) {
        const struct column_slot zero = {.key = 0, .value = later->zero.value};
        if (!self->has_seen_zero) {
            self->has_seen_zero = 1;
            self->zero_bits = later->zero.key;
        }
        if (column_fold_records(self, &zero, 1) < 0) {
            return NULL;
        }
    }
    for (uint64_t i = 0; i < later->aside_size; i++) {
        if (column_put_aside(self, later->aside[i].key, later->aside[i].value.whole) < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
column_key(const struct column_fold *self, uint64_t key)
{
    double real;

    if (!self->is_real_key) {
        return PyLong_FromLongLong((int64_t)key);
    }
    memcpy(&real, &key, sizeof real);
    return PyFloat_FromDouble(real);
}

/* column_place -- new reference to an int that stands for a key in `carried`: one NaN does not equal another. */
static PyObject *
column_place(const struct column_fold *self, uint64_t key)
{
    const int is_zero = self->is_real_key && (key & REAL_ZERO_MASK) == 0;

    return PyLong_FromUnsignedLongLong(is_zero ? 0 : key);
}

/* column_carry -- add up by key what was put aside; 0, or -1 with an exception. */
static int
column_carry(struct column_fold *self)
{
    Py_CLEAR(self->carried);
    if (self->aside_size == 0) {
        return 0;
    }
    PyObject *carried = PyDict_New(); /* owned */
    int result = carried == NULL ? -1 : 0;

    for (uint64_t i = 0; result == 0 && i < self->aside_size; i++) {
        PyObject *key = column_place(self, self->aside[i].key);          /* owned */
        PyObject *sum = PyLong_FromLongLong(self->aside[i].value.whole); /* owned */
        PyObject *before = NULL;                                         /* borrowed */
        if (key != NULL && sum != NULL) {
            before = PyDict_GetItemWithError(carried, key);
            if (before != NULL) {
                Py_SETREF(sum, PyNumber_Add(before, sum));
            }
        }
        result = key == NULL || sum == NULL || PyErr_Occurred() ? -1 : PyDict_SetItem(carried, key, sum);
        Py_XDECREF(sum);
        Py_XDECREF(key);
    }
    if (result < 0) {
        Py_CLEAR(carried);
    }
    self->carried = carried;
    return result;
}

/* column_partition -- set the partition of a key; 0, or -1 with an exception. */
static int
column_partition(
    PyObject *module, const struct column_fold *self, uint64_t key, uint64_t count, uint32_t *number)
{
    PyObject *object = column_key(self, key); /* owned */
    uint64_t digest = 0;
    int hashed = 0;
    int result = -1;

    if (object != NULL) {
        result = digest_key(module, object, 0, &digest, &hashed);
        Py_DECREF(object);
    }
    *number = (uint32_t)(digest % count);
    return result;
}

static PyObject *
column_fold_deal(struct column_fold *self, PyObject *argument)
{
    const long long count = PyLong_AsLongLong(argument);
    PyObject *module = PyType_GetModule(Py_TYPE((PyObject *)self)); /* borrowed */
    uint32_t *numbers = NULL, *order = NULL;
    uint64_t *starts = NULL;
    uint64_t next = 0;
    int result = -1;

    if (PyErr_Occurred() || module == NULL) {
        return NULL;
    }
    if (count < 1 || count >= 1LL << 32 || self->starts != NULL) {
        PyErr_SetString(PyExc_ValueError, "a fold is dealt out once, to 1 to 2**32 - 1 partitions");
        return NULL;
    }
    if (column_carry(self) < 0) {
        return NULL;
    }
    const uint64_t keys = self->size + (uint64_t)self->has_zero;
    numbers = PyMem_Calloc((size_t)keys + 1, sizeof *numbers);
    order = PyMem_Calloc((size_t)keys + 1, sizeof *order);
    starts = PyMem_Calloc((size_t)count + 2, sizeof *starts);
    if (numbers == NULL || order == NULL || starts == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (uint64_t i = 0; i <= self->slot_count; i++) {
        const struct column_slot *slot = i == self->slot_count ? &self->zero : &self->slots[i];
        if (i == self->slot_count ? !self->has_zero : slot->key == 0) {
            continue;
        }
        if (column_partition(module, self, slot->key, (uint64_t)count, &numbers[next]) < 0) {
            goto done;
        }
        starts[numbers[next++] + 2]++;
    }
    for (uint64_t p = 2; p < (uint64_t)count + 2; p++) { /* now starts[p + 1] is the start of p */
        starts[p] += starts[p - 1];
    }
    next = 0;
    for (uint64_t i = 0; i <= self->slot_count; i++) {
        if (i == self->slot_count ? self->has_zero : self->slots[i].key != 0) {
            order[starts[numbers[next++] + 1]++] = (uint32_t)i;
        }
    }
    self->order = order;
    self->starts = starts;
    self->partitions = (uint64_t)count;
    order = NULL;
    starts = NULL;
    result = 0;
done:
    PyMem_Free(numbers);
    PyMem_Free(order);
    PyMem_Free(starts);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

/* column_value -- new reference to the folded value of a key. */
static PyObject *
column_value(const struct column_fold *self, const struct column_slot *slot)
{
    if (self->is_real_value && self->op != COUNT) {
        return PyFloat_FromDouble(slot->value.real);
    }
    PyObject *value = PyLong_FromLongLong(slot->value.whole); /* owned */
    if (value != NULL && self->carried != NULL) {
        PyObject *place = column_place(self, slot->key); /* owned */
        PyObject *carried = NULL;                        /* borrowed */
        if (place != NULL) {
            carried = PyDict_GetItemWithError(self->carried, place);
            Py_DECREF(place);
        }
        if (carried != NULL) {
            Py_SETREF(value, PyNumber_Add(value, carried));
        }
        else if (PyErr_Occurred()) {
            Py_CLEAR(value);
        }
    }
    return value;
}

static PyObject *
column_fold_part(struct column_fold *self, PyObject *argument)
{
    const long long number = PyLong_AsLongLong(argument);
    PyObject *keys = NULL, *values = NULL; /* owned */

    if (PyErr_Occurred()) {
        return NULL;
    }
    if (self->starts == NULL || number < 0 || (uint64_t)number >= self->partitions) {
        PyErr_SetString(PyExc_ValueError, "there is no such partition, or the fold was not dealt out");
        return NULL;
    }
    const uint64_t start = self->starts[number], end = self->starts[number + 1];
    keys = PyList_New((Py_ssize_t)(end - start));
    values = PyList_New((Py_ssize_t)(end - start));
    int result = keys == NULL || values == NULL ? -1 : 0;
    for (uint64_t i = start; result == 0 && i < end; i++) {
        const struct column_slot *slot =
            self->order[i] == self->slot_count ? &self->zero : &self->slots[self->order[i]];
        PyObject *key = column_key(self, slot->key);                      /* owned, then stolen */
        PyObject *value = key == NULL ? NULL : column_value(self, slot); /* owned, then stolen */
        PyList_SET_ITEM(keys, (Py_ssize_t)(i - start), key);
        PyList_SET_ITEM(values, (Py_ssize_t)(i - start), value);
        result = value == NULL ? -1 : 0;
    }
    if (result < 0) {
        Py_XDECREF(keys);
        Py_XDECREF(values);
        return NULL;
    }
    return Py_BuildValue("(NN)", keys, values);
}

static Py_ssize_t
column_fold_length(struct column_fold *self)
{
    return (Py_ssize_t)self->size + self->has_zero;
}

static PyObject *
column_fold_full(struct column_fold *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(column_is_full(self));
}

static PyObject *
column_fold_bytes(struct column_fold *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong((self->slot_count + self->aside_size) * sizeof *self->slots);
}

/* parse_kind -- set *is_real of "whole" or "real"; 0, or -1 with ValueError. */
static int
parse_kind(const char *kind, int *is_real)
{
    *is_real = strcmp(kind, "real") == 0;
    if (*is_real || strcmp(kind, "whole") == 0) {
        return 0;
    }
    PyErr_Format(PyExc_ValueError, "a column is of whole or real numbers, not %.20s", kind);
    return -1;
}

static PyObject *
column_fold_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"key_kind", "value_kind", "op", "limit_bytes", NULL};
    const char *key_kind = NULL, *value_kind = NULL; /* borrowed from args */
    int op = 0, is_real_key = 0, is_real_value = 0;
    long long limit = 0;
    uint64_t most_slots = COLUMN_FIRST_SLOTS;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ssiL", names, &key_kind, &value_kind, &op, &limit)
        || parse_kind(key_kind, &is_real_key) < 0 || parse_kind(value_kind, &is_real_value) < 0) {
        return NULL;
    }
    if (op < SUM || op > FIRST) {
        PyErr_Format(
            PyExc_ValueError, "the fold must be one of SUM=1, COUNT=2, MIN=3, MAX=4, FIRST=5, got %d", op);
        return NULL;
    }
    struct column_fold *self = (struct column_fold *)type->tp_alloc(type, 0); /* owned; all 0 */
    if (self == NULL) {
        return NULL;
    }
    while (most_slots < COLUMN_MAX_SLOTS && (long long)(2 * most_slots * sizeof *self->slots) <= limit) {
        most_slots *= 2;
    }
    self->is_real_key = is_real_key;
    self->is_real_value = is_real_value;
    self->op = op;
    self->most_keys = most_slots / 8 * 5;
    self->most_aside = limit < 0 ? 0 : (uint64_t)limit / sizeof *self->slots / 4;
    if (self->most_aside < COLUMN_LEAST_ASIDE) {
        self->most_aside = COLUMN_LEAST_ASIDE;
    }
    if (column_rehash(self, COLUMN_FIRST_SLOTS) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void
column_fold_dealloc(struct column_fold *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);

    PyMem_Free(self->slots);
    PyMem_Free(self->aside);
    PyMem_Free(self->chunk);
    PyMem_Free(self->order);
    PyMem_Free(self->starts);
    Py_CLEAR(self->carried); /* of ints and floats: no cycle can go through it */
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef column_fold_methods[] = {
    {"add", (PyCFunction)(void (*)(void))column_fold_add, METH_VARARGS, "See _block_fold.ColumnFold.add."},
    {"absorb", (PyCFunction)(void (*)(void))column_fold_absorb, METH_O, "See _block_fold.ColumnFold.absorb."},
    {"deal", (PyCFunction)(void (*)(void))column_fold_deal, METH_O, "See _block_fold.ColumnFold.deal."},
    {"part", (PyCFunction)(void (*)(void))column_fold_part, METH_O, "See _block_fold.ColumnFold.part."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef column_fold_fields[] = {
    {"is_full", (getter)(void (*)(void))column_fold_full, NULL, "Whether it takes no more records.", NULL},
    {"n_bytes", (getter)(void (*)(void))column_fold_bytes, NULL, "The memory of its table, bytes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot column_fold_slots[] = {
    {Py_tp_doc, "See _block_fold.ColumnFold."},
    {Py_tp_new, column_fold_new},
    {Py_tp_dealloc, column_fold_dealloc},
    {Py_tp_methods, column_fold_methods},
    {Py_tp_getset, column_fold_fields},
    {Py_sq_length, column_fold_length},
    {0, NULL},
};

static PyType_Spec column_fold_spec = {
    .name = "mmgevent._speedups._core.ColumnFold",
    .basicsize = sizeof(struct column_fold),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = column_fold_slots,
};

#endif
