/* Deal the entries of a ColumnFold out to partitions: ColumnFold.deal(), part() and encoded(). */

#ifndef MMGEVENT_BLOCK_DEAL_H
#define MMGEVENT_BLOCK_DEAL_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_block_read.h"
#include "_block_table.h"
#include "_column_write.h"
#include "_digest.h"
#include "_number_hash.h"

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

/* column_digest -- hash_key() of a key. */
static inline uint64_t
column_digest(const struct column_fold *self, uint64_t key)
{
    double real;

    if (!self->is_real_key) {
        return digest_number(hash_int((int64_t)key), 0);
    }
    memcpy(&real, &key, sizeof real);
    return digest_real(real, 0);
}

static PyObject *
column_fold_deal(struct column_fold *self, PyObject *argument)
{
    const long long count = PyLong_AsLongLong(argument);
    uint32_t *numbers = NULL, *order = NULL;
    uint64_t *starts = NULL;
    uint64_t next = 0;
    int result = -1;

    if (PyErr_Occurred()) {
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
        numbers[next] = (uint32_t)(column_digest(self, slot->key) % (uint64_t)count);
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

/* column_has_real_values -- whether folded values are floats. */
static inline int
column_has_real_values(const struct column_fold *self)
{
    return self->is_real_value && self->op != COUNT;
}

/* column_value -- new reference to the folded value of a key. */
static PyObject *
column_value(const struct column_fold *self, const struct column_slot *slot)
{
    if (column_has_real_values(self)) {
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

/* column_check_part -- 0 if there is a partition of this number, else -1 with ValueError. */
static int
column_check_part(const struct column_fold *self, long long number)
{
    if (self->starts == NULL || number < 0 || (uint64_t)number >= self->partitions) {
        PyErr_SetString(PyExc_ValueError, "there is no such partition, or the fold was not dealt out");
        return -1;
    }
    return 0;
}

/* column_dealt -- an entry by its place in `order`; borrowed.  Fetches a slot that is asked for soon. */
static inline const struct column_slot *
column_dealt(const struct column_fold *self, uint64_t place)
{
    const uint32_t at = self->order[place];

    if (place + COLUMN_AHEAD < self->starts[self->partitions]) {
        COLUMN_FETCH(&self->slots[self->order[place + COLUMN_AHEAD]]);
    }
    return at == self->slot_count ? &self->zero : &self->slots[at];
}

static PyObject *
column_fold_part(struct column_fold *self, PyObject *argument)
{
    const long long number = PyLong_AsLongLong(argument);
    PyObject *keys = NULL, *values = NULL; /* owned */

    if (PyErr_Occurred() || column_check_part(self, number) < 0) {
        return NULL;
    }
    const uint64_t start = self->starts[number], end = self->starts[number + 1];
    keys = PyList_New((Py_ssize_t)(end - start));
    values = PyList_New((Py_ssize_t)(end - start));
    int result = keys == NULL || values == NULL ? -1 : 0;
    for (uint64_t i = start; result == 0 && i < end; i++) {
        const struct column_slot *slot = column_dealt(self, i);
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

/* column_set_number -- set a number of a column of ints: a key, or the folded value of one.
 *
 * Returns 1, or 0 if it does not fit 64 bits, or -1 with an exception. */
static int
column_set_number(
    const struct column_fold *self, const struct column_slot *slot, int of_keys, struct numbers *numbers, size_t i)
{
    int overflow = 0;

    if (of_keys || self->carried == NULL) {
        numbers_set(numbers, i, of_keys ? (int64_t)slot->key : slot->value.whole);
        return 1;
    }
    PyObject *sum = column_value(self, slot); /* owned */
    if (sum == NULL) {
        return -1;
    }
    numbers_set(numbers, i, PyLong_AsLongLongAndOverflow(sum, &overflow));
    Py_DECREF(sum);
    return !overflow;
}

/* column_write_whole -- write ints of `count` entries from a place on, one at least; as write_column(). */
static int
column_write_whole(
    const struct column_fold *self, uint64_t start, size_t count, int of_keys, struct writer *writer)
{
    struct numbers numbers;
    int result = 1;

    if (numbers_open(&numbers, count) < 0) {
        return -1;
    }
    for (size_t i = 0; result > 0 && i < count; i++) {
        result = column_set_number(self, column_dealt(self, start + i), of_keys, &numbers, i);
    }
    if (result > 0) {
        result = write_int_column(writer, &numbers, count);
    }
    PyMem_Free(numbers.all);
    return result;
}

/* column_write_real -- write floats of `count` entries from a place on, one at least; as write_column(). */
static int
column_write_real(
    const struct column_fold *self, uint64_t start, size_t count, int of_keys, struct writer *writer)
{
    uint8_t *at = write_byte(writer, FLOAT_COLUMN) < 0 ? NULL : writer_take(writer, count * WORD);

    if (at == NULL) {
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        const struct column_slot *slot = column_dealt(self, start + i);
        uint64_t bits = slot->key;
        if (!of_keys) {
            memcpy(&bits, &slot->value.real, sizeof bits);
        }
        write64(at + i * WORD, bits);
    }
    return 1;
}

/* column_encode -- set *column to new bytes: encode_column() of keys or values of some entries.
 *
 * Returns as write_column(). */
static int
column_encode(const struct column_fold *self, uint64_t start, size_t count, int of_keys, PyObject **column)
{
    const int is_real = of_keys ? self->is_real_key : column_has_real_values(self);
    struct writer writer = {0};
    int result = count == 0 ? (write_byte(&writer, NOTHING_COLUMN) < 0 ? -1 : 1)
                 : is_real  ? column_write_real(self, start, count, of_keys, &writer)
                            : column_write_whole(self, start, count, of_keys, &writer);

    if (result > 0) {
        *column = PyBytes_FromStringAndSize((const char *)writer.data, (Py_ssize_t)writer.size);
        result = *column == NULL ? -1 : 1;
    }
    PyMem_Free(writer.data);
    return result;
}

static PyObject *
column_fold_encoded(struct column_fold *self, PyObject *args)
{
    long long number = 0, start = 0, most = 0;
    PyObject *keys = NULL, *values = NULL; /* owned */
    PyObject *run = NULL;                  /* owned */

    if (!PyArg_ParseTuple(args, "LLL", &number, &start, &most) || column_check_part(self, number) < 0) {
        return NULL;
    }
    const uint64_t first = self->starts[number], size = self->starts[number + 1] - first;
    if (start < 0 || (uint64_t)start > size || most < 1) {
        PyErr_SetString(PyExc_ValueError, "a run must start in its partition, and be of 1 entry at least");
        return NULL;
    }
    const uint64_t left_over = size - (uint64_t)start;
    const size_t count = (size_t)((uint64_t)most < left_over ? (uint64_t)most : left_over);
    int result = column_encode(self, first + (uint64_t)start, count, 1, &keys);
    if (result > 0) {
        result = column_encode(self, first + (uint64_t)start, count, 0, &values);
    }
    if (result > 0) {
        run = Py_BuildValue("(nOO)", (Py_ssize_t)count, keys, values);
    }
    Py_XDECREF(keys);
    Py_XDECREF(values);
    return result == 0 ? Py_NewRef(Py_None) : run;
}

#endif
