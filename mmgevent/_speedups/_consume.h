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

/* consume -- put pairs into a dict until `used >= budget`.
 *
 * Pairs go to a table while all keys are plain.  The table is poured into the dict in any case, also
 * after an error. */
static PyObject *
consume(PyObject *module, PyObject *pairs, PyObject *dict, int op, int64_t budget)
{
    PyObject *iterator = PyObject_GetIter(pairs); /* owned */
    PyObject *one = PyLong_FromLong(1);           /* owned */
    PyObject *block = NULL;                       /* owned */
    PyObject *previous = NULL;                    /* owned, so that no other value gets its address */
    PyObject *result = NULL;
    struct table table = {0};
    int is_plain = PyDict_GET_SIZE(dict) == 0;
    int64_t used = 0, records = 0;
    int got = -1;

    if (iterator == NULL || one == NULL || (is_plain && table_open(&table) < 0)) {
        goto done;
    }
    for (;;) {
        PyObject *key = NULL;   /* owned */
        PyObject *value = NULL; /* owned; `previous` takes it over */
        int stored = 0;         /* as group_plain() returns */
        got = next_pair(module, iterator, &key, &value, &block);
        if (got <= 0) {
            break;
        }
        if (op == COUNT) {
            Py_SETREF(value, Py_NewRef(one));
        }
        if (is_plain) {
            stored = op == GROUP ? group_plain(&table, key, value, previous, &used)
                                 : fold_plain(&table, key, value, op, &used);
            if (stored == 0) {
                is_plain = 0;
                stored = pour(&table, dict, op);
            }
        }
        if (!is_plain && stored == 0) {
            stored = put(module, dict, key, value, previous, op, &used);
        }
        Py_DECREF(key);
        Py_XSETREF(previous, value);
        records++;
        if (stored < 0 || (records % RECORDS_BETWEEN_SIGNALS == 0 && PyErr_CheckSignals() < 0)) {
            got = -1;
            break;
        }
        if (used >= budget) {
            break;
        }
    }
    if (is_plain && pour(&table, dict, op) < 0) {
        got = -1;
    }
    if (got >= 0) {
        PyObject *const exhausted = got ? Py_False : Py_True; /* borrowed */
        result = Py_BuildValue(
            "(OLL)", block != NULL ? block : exhausted, (long long)used, (long long)records);
    }
done:
    table_close(&table);
    Py_XDECREF(block);
    Py_XDECREF(previous);
    Py_XDECREF(one);
    Py_XDECREF(iterator);
    return result;
}

#endif
