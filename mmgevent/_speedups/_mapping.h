/* The records of items, one item after another: take(), and the iterators of map_items() and stream_items(). */

#ifndef MMGEVENT_MAPPING_H
#define MMGEVENT_MAPPING_H

#include <Python.h>
#include <stdint.h>

#include "_digest.h"
#include "_items.h"
#include "_twin.h"

#define RECORDS_BETWEEN_SIGNALS 65536 /* records; Ctrl-C must end an endless iterator written in C, too */

/* check_key -- 0 if this object can be a key, or -1 with the TypeError that hashing it raises.
 *
 * Most keys are of a class whose objects are always keys. */
static inline int
check_key(PyObject *module, PyObject *key)
{
    uint64_t digest = 0;
    int hashed = 0;

    if (PyUnicode_CheckExact(key) || PyLong_CheckExact(key) || PyFloat_CheckExact(key)
        || PyBytes_CheckExact(key) || key == Py_None) {
        return 0;
    }
    return digest_key(module, key, 0, &digest, &hashed);
}

static PyObject *take(PyObject *module, PyObject *records, Py_ssize_t limit);

/* take_block -- take the records of a block; 0, or 1 if it was taken itself, or -1 with an exception. */
static int
take_block(PyObject *module, PyObject *block, PyObject *taken, Py_ssize_t limit)
{
    PyObject *pairs = NULL, *more = NULL; /* owned */
    const Py_ssize_t size = PyObject_Length(block);
    int result = -1;

    if (size < 0) {
        return -1;
    }
    if (size >= limit - PyList_GET_SIZE(taken)) {
        return PyList_Append(taken, block) < 0 ? -1 : 1;
    }
    pairs = PyObject_CallMethod(block, "pairs", NULL);
    more = pairs == NULL ? NULL : take(module, pairs, limit);
    if (more != NULL) {
        result = PyList_SetSlice(taken, PyList_GET_SIZE(taken), PyList_GET_SIZE(taken), more);
    }
    Py_XDECREF(more);
    Py_XDECREF(pairs);
    return result;
}

/* take -- new list of the next records of an iterator, each checked; NULL with an exception.
 *
 * Of a Block its records are taken.  If they are too many, it is taken itself, and is the last. */
static PyObject *
take(PyObject *module, PyObject *records, Py_ssize_t limit)
{
    PyObject *iterator = PyObject_GetIter(records); /* owned */
    PyObject *taken = PyList_New(0);                /* owned */
    PyObject *record = NULL;                        /* owned */
    int result = iterator == NULL || taken == NULL ? -1 : 0;

    while (result == 0 && PyList_GET_SIZE(taken) < limit && (record = PyIter_Next(iterator)) != NULL) {
        PyObject *key = NULL; /* owned: the check may run user code, which may empty the record */
        if (PyTuple_Check(record) && PyTuple_GET_SIZE(record) == 2) {
            key = Py_NewRef(PyTuple_GET_ITEM(record, 0));
        }
        else if (PyList_Check(record) && PyList_GET_SIZE(record) == 2) {
            key = Py_NewRef(PyList_GET_ITEM(record, 0));
        }
        if (key == NULL && (result = is_block(module, record)) > 0) {
            result = take_block(module, record, taken, limit);
            Py_DECREF(record);
            if (result > 0) { /* the block itself was taken */
                result = 0;
                break;
            }
            continue;
        }
        if (key == NULL) {
            result = result < 0 ? -1 : raise_by_twin(module, "_pair_error", record);
        }
        else if (check_key(module, key) < 0 || PyList_Append(taken, record) < 0) {
            result = -1;
        }
        Py_XDECREF(key);
        Py_DECREF(record);
    }
    if (result == 0 && PyErr_Occurred()) {
        result = -1;
    }
    Py_XDECREF(iterator);
    if (result < 0) {
        Py_CLEAR(taken);
    }
    return taken;
}

/* The state of `_fallback.map_items` between two records.  All objects are owned. */
struct mapping {
    PyObject_HEAD
    struct source source;
    PyObject *mapfn, *pairs_of, *failed, *large;
    Py_ssize_t limit;
    PyObject *records; /* records of the current item; NULL between two items */
    Py_ssize_t given;  /* number of them that were returned */
};

static int
mapping_traverse(struct mapping *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    SOURCE_VISIT(self->source);
    Py_VISIT(self->mapfn);
    Py_VISIT(self->pairs_of);
    Py_VISIT(self->failed);
    Py_VISIT(self->large);
    Py_VISIT(self->records);
    return 0;
}

static int
mapping_clear(struct mapping *self)
{
    SOURCE_CLEAR(self->source);
    Py_CLEAR(self->mapfn);
    Py_CLEAR(self->pairs_of);
    Py_CLEAR(self->failed);
    Py_CLEAR(self->large);
    Py_CLEAR(self->records);
    return 0;
}

static void
mapping_dealloc(struct mapping *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    mapping_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* records_of -- call mapfn on an item.
 *
 * *output  set to an owned iterator, or NULL.
 * *taken   set to an owned list of its first records, or NULL.
 *
 * Returns 0, or -1 with an exception. */
static int
records_of(PyObject *module, struct mapping *self, PyObject *key, PyObject *value, PyObject **output, PyObject **taken)
{
    PyObject *args[] = {key, value};                                        /* borrowed */
    PyObject *result = PyObject_Vectorcall(self->mapfn, args, 2, NULL); /* owned */

    if (result != NULL && !PyGen_CheckExact(result)) {
        Py_SETREF(result, PyObject_CallOneArg(self->pairs_of, result));
    }
    *output = result;
    *taken = result == NULL ? NULL : take(module, result, self->limit);
    return *taken == NULL ? -1 : 0;
}

/* ask_failed -- call `failed` for an item whose mapfn raised the exception that is set.
 *
 * Returns a list of records, or None, or NULL with an exception. */
static PyObject *
ask_failed(struct mapping *self, uint64_t position, PyObject *key, PyObject *value)
{
    PyObject *type = NULL, *error = NULL, *traceback = NULL, *answer = NULL; /* owned */
    PyObject *number = NULL;                                                 /* owned */

    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(error, traceback);
    }
    number = PyLong_FromUnsignedLongLong(position);
    if (number != NULL) {
        PyObject *args[] = {number, key, value, error}; /* borrowed */
        answer = PyObject_Vectorcall(self->failed, args, 4, NULL);
        Py_DECREF(number);
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    if (answer != NULL && answer != Py_None && !PyList_Check(answer)) {
        PyErr_Format(PyExc_TypeError, "failed() must return a list or None, not %.200s", Py_TYPE(answer)->tp_name);
        Py_CLEAR(answer);
    }
    return answer;
}

/* ends_with_block -- 1 if the last of the records taken is a Block, 0 if not, -1 with an exception. */
static int
ends_with_block(PyObject *module, PyObject *taken)
{
    const Py_ssize_t size = PyList_GET_SIZE(taken);

    if (size == 0 || PyTuple_Check(PyList_GET_ITEM(taken, size - 1))) {
        return 0;
    }
    return is_block(module, PyList_GET_ITEM(taken, size - 1));
}

/* map_next -- map the next item: 1 if self->records is set, 0 at the end, -1 with an exception. */
static int
map_next(PyObject *module, struct mapping *self)
{
    uint64_t position = 0;
    PyObject *key = NULL, *value = NULL, *number = NULL;  /* owned */
    PyObject *output = NULL, *taken = NULL, *told = NULL; /* owned */
    int is_large = 0;
    int result = source_take(&self->source, &position, &key, &value);

    if (result <= 0) {
        return result;
    }
    result = -1;
    if (records_of(module, self, key, value, &output, &taken) < 0) {
        taken = ask_failed(self, position, key, value);
        if (taken == NULL || taken == Py_None) {
            result = taken == NULL ? -1 : 0;
            Py_CLEAR(taken);
            goto done;
        }
    }
    else if ((is_large = ends_with_block(module, taken)) < 0) {
        goto done;
    }
    else if (is_large || PyList_GET_SIZE(taken) >= self->limit) {
        number = PyLong_FromUnsignedLongLong(position);
        if (number != NULL) {
            PyObject *args[] = {number, key, value, taken, output}; /* borrowed */
            told = PyObject_Vectorcall(self->large, args, 5, NULL);
        }
        result = told == NULL ? -1 : 0;
        goto done;
    }
    Py_XSETREF(self->records, Py_NewRef(taken));
    self->given = 0;
    result = 1;
done:
    Py_XDECREF(number);
    Py_XDECREF(told);
    Py_XDECREF(taken);
    Py_XDECREF(output);
    Py_DECREF(value);
    Py_DECREF(key);
    return result;
}

static PyObject *
mapping_next(struct mapping *self)
{
    PyObject *module = NULL; /* borrowed */

    for (;;) {
        if (self->records != NULL) {
            if (self->given < PyList_GET_SIZE(self->records)) {
                return Py_NewRef(PyList_GET_ITEM(self->records, self->given++));
            }
            Py_CLEAR(self->records);
        }
        if (module == NULL && (module = PyType_GetModule(Py_TYPE(self))) == NULL) {
            return NULL;
        }
        if (map_next(module, self) <= 0) {
            keep_raising();
            Py_CLEAR(self->source.items);
            return NULL;
        }
    }
}

static PyType_Slot mapping_slots[] = {
    {Py_tp_doc, "What map_items() returns."},
    {Py_tp_traverse, mapping_traverse},
    {Py_tp_clear, mapping_clear},
    {Py_tp_dealloc, mapping_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, mapping_next},
    {0, NULL},
};

static PyType_Spec mapping_spec = {
    .name = "mmgevent._speedups._core.Mapping",
    .basicsize = sizeof(struct mapping),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = mapping_slots,
};

/* The state of `_items.stream_items` between two records.  All objects are owned. */
struct streaming {
    PyObject_HEAD
    struct source source;
    PyObject *mapfn, *pairs_of;
    PyObject *output; /* iterator over the records of the current item; NULL between two items */
    Py_ssize_t begun; /* items */
};

static int
streaming_traverse(struct streaming *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    SOURCE_VISIT(self->source);
    Py_VISIT(self->mapfn);
    Py_VISIT(self->pairs_of);
    Py_VISIT(self->output);
    return 0;
}

static int
streaming_clear(struct streaming *self)
{
    SOURCE_CLEAR(self->source);
    Py_CLEAR(self->mapfn);
    Py_CLEAR(self->pairs_of);
    Py_CLEAR(self->output);
    return 0;
}

static void
streaming_dealloc(struct streaming *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    streaming_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* stream_end -- give no more items, as a generator that raised. */
static PyObject *
stream_end(struct streaming *self)
{
    keep_raising();
    PyObject *const output = self->output, *const items = self->source.items; /* owned */
    self->output = self->source.items = NULL;
    Py_XDECREF(output);
    Py_XDECREF(items);
    return NULL;
}

static PyObject *
streaming_next(struct streaming *self)
{
    for (;;) {
        uint64_t position = 0;
        PyObject *key = NULL, *value = NULL; /* owned */
        PyObject *output = self->output;     /* owned where it is used */

        if (output != NULL) {
            Py_INCREF(output);
            PyObject *record = PyIter_Next(output);
            Py_DECREF(output);
            if (record != NULL || PyErr_Occurred()) {
                return record;
            }
            Py_CLEAR(self->output);
        }
        if (source_take(&self->source, &position, &key, &value) <= 0) {
            return stream_end(self);
        }
        if (self->mapfn == Py_None) {
            return Py_BuildValue("(NN)", key, value);
        }
        PyObject *args[] = {key, value}; /* borrowed */
        output = PyObject_Vectorcall(self->mapfn, args, 2, NULL);
        Py_DECREF(key);
        Py_DECREF(value);
        if (output != NULL && !PyGen_CheckExact(output)) {
            Py_SETREF(output, PyObject_CallOneArg(self->pairs_of, output));
            if (output != NULL && !PyIter_Check(output)) {
                PyErr_SetString(PyExc_TypeError, "pairs_of() must return an iterator");
                Py_CLEAR(output);
            }
        }
        if (output == NULL || (++self->begun % RECORDS_BETWEEN_SIGNALS == 0 && PyErr_CheckSignals() < 0)) {
            Py_XDECREF(output);
            return stream_end(self);
        }
        Py_XSETREF(self->output, output);
    }
}

static PyType_Slot streaming_slots[] = {
    {Py_tp_doc, "What stream_items() returns."},
    {Py_tp_traverse, streaming_traverse},
    {Py_tp_clear, streaming_clear},
    {Py_tp_dealloc, streaming_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, streaming_next},
    {0, NULL},
};

static PyType_Spec streaming_spec = {
    .name = "mmgevent._speedups._core.Streaming",
    .basicsize = sizeof(struct streaming),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = streaming_slots,
};

static PyObject *
core_map_items(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyObject *type = NULL;       /* owned */
    struct mapping *self = NULL; /* owned */
    Py_ssize_t limit = 0;

    if (count != 7) {
        PyErr_Format(PyExc_TypeError, "map_items() takes 7 positional arguments, got %zd", count);
        return NULL;
    }
    limit = PyLong_AsSsize_t(args[6]);
    if (limit == -1 && PyErr_Occurred()) {
        return NULL;
    }
    type = PyObject_GetAttrString(module, "_Mapping");
    if (type == NULL) {
        return NULL;
    }
    self = PyObject_GC_New(struct mapping, (PyTypeObject *)type);
    Py_DECREF(type);
    if (self == NULL) {
        return NULL;
    }
    const int opened = source_open(&self->source, args[0], args[1]);
    self->mapfn = Py_NewRef(args[2]);
    self->pairs_of = Py_NewRef(args[3]);
    self->failed = Py_NewRef(args[4]);
    self->large = Py_NewRef(args[5]);
    self->limit = limit;
    self->records = NULL;
    self->given = 0;
    PyObject_GC_Track((PyObject *)self);
    if (opened < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static PyObject *
core_stream_items(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyObject *type = NULL;         /* owned */
    struct streaming *self = NULL; /* owned */

    if (count != 4) {
        PyErr_Format(PyExc_TypeError, "stream_items() takes 4 positional arguments, got %zd", count);
        return NULL;
    }
    type = PyObject_GetAttrString(module, "_Streaming");
    if (type == NULL) {
        return NULL;
    }
    self = PyObject_GC_New(struct streaming, (PyTypeObject *)type);
    Py_DECREF(type);
    if (self == NULL) {
        return NULL;
    }
    const int opened = source_open(&self->source, args[0], args[1]);
    self->mapfn = Py_NewRef(args[2]);
    self->pairs_of = Py_NewRef(args[3]);
    self->output = NULL;
    self->begun = 0;
    PyObject_GC_Track((PyObject *)self);
    if (opened < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

#endif
