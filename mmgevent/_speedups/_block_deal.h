/* Deal the entries of a ColumnFold out to partitions: ColumnFold.deal() and part(). */

#ifndef MMGEVENT_BLOCK_DEAL_H
#define MMGEVENT_BLOCK_DEAL_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_block_read.h"
#include "_block_table.h"
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

#endif
