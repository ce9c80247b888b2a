/* Fill a dict from an iterator of pairs: group() and fold(). */

#ifndef MMGEVENT_CONSUME_H
#define MMGEVENT_CONSUME_H

#include <Python.h>
#include <stdint.h>

#include "_groups.h"
#include "_mapping.h"
#include "_plain.h"
#include "_table.h"
#include "_twin.h"

/* next_pair -- take the next pair.
 *
 * key, value  set to new references.
 *
 * *block      set to a new reference where a Block comes instead; the others are not set.
 *
 * Returns 1, or 0 at the end or at a block, or -1 with an exception. */
static inline int
next_pair(PyObject *module, PyObject *iterator, PyObject **key, PyObject **value, PyObject **block)
{
    PyObject *pair = PyIter_Next(iterator); /* owned */
    int result = 1;

    if (pair == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2) {
        *key = Py_NewRef(PyTuple_GET_ITEM(pair, 0));
        *value = Py_NewRef(PyTuple_GET_ITEM(pair, 1));
    }
    else if (PyList_Check(pair) && PyList_GET_SIZE(pair) == 2) {
        *key = Py_NewRef(PyList_GET_ITEM(pair, 0));
        *value = Py_NewRef(PyList_GET_ITEM(pair, 1));
    }
    else {
        result = is_block(module, pair);
        if (result > 0) {
            *block = pair;
            return 0;
        }
        if (result == 0) {
            result = raise_by_twin(module, "_pair_error", pair);
        }
    }
    Py_DECREF(pair);
    return result;
}

/* What pairs are put into: a table while all keys are plain, then a dict. */
struct sink {
    struct table *table;
    int is_plain;   /* whether the table is in use; it is poured into the dict at the first other key */
    PyObject *dict; /* borrowed */
    int op;
    int64_t used;
    int64_t records;
    PyObject *block; /* owned: the Block that ended the pairs, or NULL */
};

/* sink_put -- put one pair; 0, or -1 with an exception. */
static inline int
sink_put(PyObject *module, struct sink *sink, PyObject *key, PyObject *value, PyObject *previous)
{
    int stored = 0; /* as group_plain() returns */

    if (sink->is_plain) {
        stored = sink->op == GROUP ? group_plain(sink->table, key, value, previous, &sink->used)
                                   : fold_plain(sink->table, key, value, sink->op, &sink->used);
        if (stored == 0) {
            sink->is_plain = 0;
            stored = pour(sink->table, sink->dict, sink->op);
        }
    }
    if (!sink->is_plain && stored == 0) {
        stored = put(module, sink->dict, key, value, previous, sink->op, &sink->used);
    }
    return stored < 0 ? -1 : 0;
}

/* sink_fill -- put pairs until `used >= budget`; 1, or 0 at their end or at a block, or -1 with an exception. */
static int
sink_fill(PyObject *module, struct sink *sink, PyObject *iterator, int64_t budget)
{
    PyObject *one = PyLong_FromLong(1); /* owned */
    PyObject *previous = NULL;          /* owned, so that no other value gets its address */
    int got = one == NULL ? -1 : 1;

    while (got > 0) {
        PyObject *key = NULL;   /* owned */
        PyObject *value = NULL; /* owned; `previous` takes it over */
        got = next_pair(module, iterator, &key, &value, &sink->block);
        if (got <= 0) {
            break;
        }
        if (sink->op == COUNT) {
            Py_SETREF(value, Py_NewRef(one));
        }
        const int stored = sink_put(module, sink, key, value, previous);
        Py_DECREF(key);
        Py_XSETREF(previous, value);
        sink->records++;
        if (stored < 0 || (sink->records % RECORDS_BETWEEN_SIGNALS == 0 && PyErr_CheckSignals() < 0)) {
            got = -1;
        }
        if (sink->used >= budget) {
            break;
        }
    }
    Py_XDECREF(previous);
    Py_XDECREF(one);
    return got;
}

/* sink_result -- (whether the pairs are exhausted, or the block that ended them, used, records).
 *
 * got  what sink_fill() returned, or -1, which gives NULL.  The sink lets its block go. */
static PyObject *
sink_result(struct sink *sink, int got)
{
    PyObject *const ended = sink->block != NULL ? sink->block : got ? Py_False : Py_True; /* borrowed */
    PyObject *const result =
        got < 0 ? NULL
                : Py_BuildValue("(OLL)", ended, (long long)sink->used, (long long)sink->records); /* owned */

    Py_CLEAR(sink->block);
    return result;
}

/* consume -- put pairs into a dict until `used >= budget`.
 *
 * Pairs go to a table while all keys are plain.  The table is poured into the dict in any case, also
 * after an error. */
static PyObject *
consume(PyObject *module, PyObject *pairs, PyObject *dict, int op, int64_t budget)
{
    PyObject *iterator = PyObject_GetIter(pairs); /* owned */
    PyObject *result = NULL;
    struct table table = {0};
    struct sink sink = {&table, PyDict_GET_SIZE(dict) == 0, dict, op, 0, 0, NULL};

    if (iterator != NULL && (!sink.is_plain || table_open(&table) == 0)) {
        int got = sink_fill(module, &sink, iterator, budget);
        if (sink.is_plain && pour(&table, dict, op) < 0) {
            got = -1;
        }
        result = sink_result(&sink, got);
    }
    table_close(&table);
    Py_XDECREF(iterator);
    return result;
}

#endif
