/* Merge columns of keys and values into a dict: merge_grouped(), merge_flat() and merge_fold(). */

#ifndef MMGEVENT_MERGE_H
#define MMGEVENT_MERGE_H

#include <Python.h>
#include <stdint.h>

#include "_digest.h"
#include "_estimate.h"
#include "_groups.h"

/* check_columns -- 0 if both lists have one length, else -1 with ValueError. */
static int
check_columns(PyObject *keys, PyObject *values)
{
    if (PyList_GET_SIZE(keys) == PyList_GET_SIZE(values)) {
        return 0;
    }
    PyErr_Format(
        PyExc_ValueError, "there must be one value for each key, got %zd keys, %zd values",
        PyList_GET_SIZE(keys), PyList_GET_SIZE(values));
    return -1;
}

/* extend_one -- extend the list of a key by another list; a new key takes that very list over. */
static int
extend_one(PyObject *module, PyObject *groups, PyObject *key, PyObject *more, int64_t *used)
{
    PyObject *values = NULL;   /* owned */
    PyObject *previous = NULL; /* owned */
    int result = 0;

    if (check_list(more) < 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(more); i++) {
        PyObject *value = Py_NewRef(PyList_GET_ITEM(more, i)); /* owned; `previous` takes it over */
        int64_t size = 0;
        result = estimate_value(value, previous, &size);
        *used += size;
        Py_XSETREF(previous, value);
    }
    Py_XDECREF(previous);
    if (result < 0 || find(module, groups, key, &values) < 0) {
        return -1;
    }
    if (values == NULL) {
        *used += LIST_BYTES;
        return insert(groups, key, more, used);
    }
    result = check_list(values);
    if (result == 0) {
        result = PyList_SetSlice(values, PyList_GET_SIZE(values), PyList_GET_SIZE(values), more);
    }
    Py_DECREF(values);
    return result;
}

enum merge { GROUPED, FLAT, FOLD };

/* merge -- put all (keys[i], values[i]) into a dict; returns `used` as an int, or NULL. */
static PyObject *
merge(PyObject *module, PyObject *table, PyObject *keys, PyObject *values, enum merge how, int op)
{
    PyObject *previous = NULL; /* owned */
    int64_t used = 0;
    int result = check_columns(keys, values);

    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(keys) && i < PyList_GET_SIZE(values); i++) {
        PyObject *raw = Py_NewRef(PyList_GET_ITEM(keys, i));     /* owned */
        PyObject *value = Py_NewRef(PyList_GET_ITEM(values, i)); /* owned; `previous` takes it over */
        PyObject *key = unify_nan(module, raw);                  /* owned */
        if (key == NULL) {
            result = -1;
        }
        else if (how == GROUPED) {
            result = extend_one(module, table, key, value, &used);
        }
        else if (how == FLAT) {
            result = append_one(module, table, key, value, previous, &used);
        }
        else {
            result = fold_one(module, table, key, value, op, &used);
        }
        Py_XDECREF(key);
        Py_DECREF(raw);
        Py_XSETREF(previous, value);
    }
    Py_XDECREF(previous);
    return result < 0 ? NULL : PyLong_FromLongLong(used);
}

#endif
