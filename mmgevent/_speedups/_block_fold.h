/* The class ColumnFold: folds columns of numbers by key, without an object for each record.
 *
 * _block_read.h reads them from buffers, _block_table.h folds them, _block_deal.h hands them out.
 * Records are folded in their order, so sums of floats are those of `_fallback.fold`.
 *
 * No user code runs while records are folded.  _block_fold.py is the specification; there are the
 * arguments and errors. */

#ifndef MMGEVENT_BLOCK_FOLD_H
#define MMGEVENT_BLOCK_FOLD_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_block_deal.h"
#include "_block_read.h"
#include "_block_table.h"
#include "_groups.h"

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
    {"encoded", (PyCFunction)(void (*)(void))column_fold_encoded, METH_VARARGS,
     "See _block_fold.ColumnFold.encoded."},
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
