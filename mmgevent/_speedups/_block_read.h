/* Read records of a ColumnFold from buffers (PEP 3118), as int64 or double, a chunk at a time. */

#ifndef MMGEVENT_BLOCK_READ_H
#define MMGEVENT_BLOCK_READ_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_block_table.h"

#define COLUMN_CHUNK 4096          /* records that are read at a time: 64 KiB stay in the cache */
#define REAL_ZERO_MASK UINT64_C(0x7FFFFFFFFFFFFFFF) /* 0.0 and -0.0 are one key */
#define REAL_INFINITY UINT64_C(0x7FF0000000000000)  /* larger bits without the sign are NaNs */
#define REAL_NAN UINT64_C(0x7FF8000000000000)       /* all NaNs are one key */

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

#endif
