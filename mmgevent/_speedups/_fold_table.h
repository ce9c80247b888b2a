/* The class FoldTable: folded values by key, without objects for ints; _folds.py is the specification.
 *
 * While all keys are plain, they and their values are in a table (_table.h): an int key is in its entry, and
 * so is a sum of ints.  From the first other key on they are in a dict. */

#ifndef MMGEVENT_FOLD_TABLE_H
#define MMGEVENT_FOLD_TABLE_H

#include <Python.h>
#include <stdint.h>

#include "_arguments.h"
#include "_column_read.h"
#include "_column_write.h"
#include "_consume.h"
#include "_digest.h"
#include "_merge.h"
#include "_plain.h"
#include "_table.h"

struct fold_table {
    PyObject_HEAD
    struct table table;
    PyObject *dict; /* owned; empty while the table is in use */
    int op;
    int is_plain; /* whether the table is in use */
    int is_busy;  /* whether a call runs, which may run user code */
};

static int
fold_table_traverse(struct fold_table *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->dict);
    for (uint32_t i = 0; i < self->table.size; i++) {
        Py_VISIT(self->table.entries[i].value);
    }
    return 0;
}

static int
fold_table_clear(struct fold_table *self)
{
    struct table table = self->table;

    memset(&self->table, 0, sizeof self->table); /* releasing values may run user code */
    self->is_plain = 0;
    table_close(&table);
    Py_CLEAR(self->dict);
    return 0;
}

static void
fold_table_dealloc(struct fold_table *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    fold_table_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* fold_table_reset -- make it empty; 0, or -1 with MemoryError. */
static int
fold_table_reset(struct fold_table *self)
{
    fold_table_clear(self);
    self->dict = PyDict_New();
    if (self->dict == NULL || table_open(&self->table) < 0) {
        return -1;
    }
    self->table.drops_ints = 1;
    self->is_plain = 1;
    return 0;
}

static PyObject *
fold_table_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"op", NULL};
    long op = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "l:FoldTable", names, &op) || check_op(op) < 0) {
        return NULL;
    }
    struct fold_table *self = (struct fold_table *)type->tp_alloc(type, 0); /* owned; all zero */
    if (self != NULL) {
        self->op = (int)op;
        if (fold_table_reset(self) < 0) {
            Py_CLEAR(self);
        }
    }
    return (PyObject *)self;
}

static Py_ssize_t
fold_table_length(struct fold_table *self)
{
    return self->is_plain ? (Py_ssize_t)self->table.size : self->dict == NULL ? 0 : PyDict_GET_SIZE(self->dict);
}

/* fold_table_enter -- begin a call; 0, or -1 with RuntimeError if another one runs. */
static int
fold_table_enter(struct fold_table *self)
{
    if (self->is_busy || self->dict == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the table is in use by another call");
        return -1;
    }
    self->is_busy = 1;
    return 0;
}

/* fold_table_sink -- what pairs are put into. */
static struct sink
fold_table_sink(struct fold_table *self)
{
    return (struct sink){&self->table, self->is_plain, self->dict, self->op, 0, 0, NULL};
}

static PyObject *
fold_table_fold(struct fold_table *self, PyObject *args)
{
    PyObject *module = PyType_GetModule(Py_TYPE(self)); /* borrowed */
    PyObject *pairs = NULL;                             /* borrowed from args */
    long long budget = 0;

    if (module == NULL || !PyArg_ParseTuple(args, "OL:fold", &pairs, &budget)) {
        return NULL;
    }
    PyObject *iterator = PyObject_GetIter(pairs); /* owned */
    if (iterator == NULL || fold_table_enter(self) < 0) {
        Py_XDECREF(iterator);
        return NULL;
    }
    struct sink sink = fold_table_sink(self);
    const int got = sink_fill(module, &sink, iterator, budget);
    self->is_plain = sink.is_plain;
    self->is_busy = 0;
    Py_DECREF(iterator);
    return sink_result(&sink, got);
}

/* Ints of a column, one after another. */
struct int_reader {
    struct packed packed;
    uint64_t last;
    size_t next;
    int are_steps;
};

/* int_reader_open -- begin to read a column of ints; 1, or 0 if it is of another kind, -1 with ValueError. */
static int
int_reader_open(struct int_reader *ints, struct reader *reader, size_t count)
{
    if (count == 0 || left(reader) == 0 || (*reader->at != INT_COLUMN && *reader->at != STEP_COLUMN)) {
        return 0;
    }
    ints->are_steps = *reader->at++ == STEP_COLUMN;
    ints->next = 0;
    ints->last = 0;
    if (ints->are_steps && read_word(reader, &ints->last) < 0) {
        return -1;
    }
    if (read_packed(reader, count - ints->are_steps, &ints->packed) < 0) {
        return -1;
    }
    return left(reader) > 0 ? damaged() : 1;
}

static inline int64_t
int_reader_next(struct int_reader *ints)
{
    const size_t i = ints->next++;

    if (!ints->are_steps) {
        return (int64_t)packed_number(&ints->packed, i);
    }
    if (i > 0) {
        ints->last += packed_number(&ints->packed, i - 1);
    }
    return (int64_t)ints->last;
}

/* estimate_int -- what estimate() says of an int. */
static inline int64_t
estimate_int(int64_t number)
{
    return number >= -5 && number <= 256 ? 0 : 32;
}

/* fold_number -- fold an int into the entry of a key.
 *
 * Returns 1, or 0 if it must be folded as an object. */
static inline int
fold_number(struct entry *entry, int is_new, int64_t number, int64_t key_size, int64_t *used)
{
    if (is_new) {
        entry->count = number;
        *used += ENTRY_BYTES + key_size + estimate_int(number);
        return 1;
    }
    if (entry->value != NULL || (number > 0 && entry->count > INT64_MAX - number)
        || (number < 0 && entry->count < INT64_MIN - number)) {
        return 0;
    }
    entry->count += number;
    return 1;
}

/* fold_boxed -- fold a key and an int as objects. */
static int
fold_boxed(PyObject *module, struct sink *sink, PyObject *key, int64_t number)
{
    PyObject *value = key == NULL ? NULL : PyLong_FromLongLong(number); /* owned */
    const int result = value == NULL ? -1 : sink_put(module, sink, key, value, NULL);

    Py_XDECREF(value);
    return result;
}

/* merge_int_keys -- add ints by int keys; 0, or -1 with an exception. */
static int
merge_int_keys(
    PyObject *module, struct sink *sink, struct int_reader *keys, struct int_reader *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const int64_t key = int_reader_next(keys), number = int_reader_next(values);
        struct key_code code;
        struct entry *entry = NULL; /* borrowed */
        int done = 0;
        if (sink->is_plain) {
            const uint32_t size_before = sink->table->size;
            code_int(key, &code);
            const int found = table_find_code(sink->table, NULL, &code, &entry);
            if (found < 0) {
                return -1;
            }
            done = found > 0
                   && fold_number(entry, sink->table->size > size_before, number, estimate_int(key), &sink->used);
        }
        if (!done) {
            PyObject *object = PyLong_FromLongLong(key); /* owned */
            const int result = fold_boxed(module, sink, object, number);
            Py_XDECREF(object);
            if (result < 0) {
                return -1;
            }
        }
    }
    return 0;
}

/* merge_text_keys -- add ints by texts of ASCII; 0, or -1 with an exception. */
static int
merge_text_keys(
    PyObject *module, struct sink *sink, const uint8_t *at, const struct packed *sizes, struct int_reader *values,
    size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const size_t size = (size_t)packed_number(sizes, i);
        const int64_t number = int_reader_next(values);
        struct key_code code;
        int done = 0;
        if (sink->is_plain && size <= SHORT_KEY) {
            uint32_t slot = 0;
            int probes = 0;
            code.kind = (uint32_t)size;
            code_short(at, size, code.words);
            code.hash = scramble(code.words[0], code.words[1], code.kind);
            struct entry *entry = table_look_up(sink->table, NULL, &code, &slot, &probes); /* borrowed */
            done = entry != NULL && fold_number(entry, 0, number, 0, &sink->used);
        }
        if (!done) {
            PyObject *object = text_of(at, size, 1); /* owned */
            const int result = fold_boxed(module, sink, object, number);
            Py_XDECREF(object);
            if (result < 0) {
                return -1;
            }
        }
        at += size;
    }
    return 0;
}

/* merge_objects -- fold columns of any kind; 0, or -1 with an exception. */
static int
merge_objects(PyObject *module, struct sink *sink, PyObject *keys, PyObject *values)
{
    int result = check_columns(keys, values);

    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(keys) && i < PyList_GET_SIZE(values); i++) {
        PyObject *key = Py_NewRef(PyList_GET_ITEM(keys, i));     /* owned */
        PyObject *value = Py_NewRef(PyList_GET_ITEM(values, i)); /* owned */
        result = sink_put(module, sink, key, value, NULL);
        Py_DECREF(value);
        Py_DECREF(key);
    }
    return result;
}

/* merge_decoded -- fold columns of any kind that are encoded; 0, or -1 with an exception. */
static int
merge_decoded(PyObject *module, struct sink *sink, struct reader *keys, struct reader *values, size_t count)
{
    PyObject *key_list = read_column(keys, count, 1, 1);                                   /* owned */
    PyObject *value_list = key_list == NULL ? NULL : read_column(values, count, 1, 1); /* owned */
    int result = value_list == NULL ? -1 : 0;

    if (result == 0 && (left(keys) > 0 || left(values) > 0)) {
        result = damaged();
    }
    if (result == 0) {
        result = merge_objects(module, sink, key_list, value_list);
    }
    Py_XDECREF(key_list);
    Py_XDECREF(value_list);
    return result;
}

/* merge_encoded -- fold encoded columns, without objects for ints where they are added. */
static int
merge_encoded(PyObject *module, struct sink *sink, struct reader keys, struct reader values, size_t count)
{
    const struct reader all_keys = keys, all_values = values;
    struct int_reader key_ints, value_ints;
    struct packed sizes;
    size_t total = 0;
    int found = sink->op == SUM || sink->op == COUNT ? int_reader_open(&value_ints, &values, count) : 0;

    if (found > 0) {
        found = int_reader_open(&key_ints, &keys, count);
        if (found > 0) {
            return merge_int_keys(module, sink, &key_ints, &value_ints, count);
        }
        if (found == 0 && left(&keys) > 0 && *keys.at == TEXT_COLUMN) {
            keys.at++;
            if (read_packed(&keys, count, &sizes) < 0 || packed_sizes(&keys, &sizes, count, 1, &total) < 0
                || (total < left(&keys) && damaged() < 0)) {
                return -1;
            }
            if (is_all_ascii(keys.at, total)) {
                return merge_text_keys(module, sink, keys.at, &sizes, &value_ints, count);
            }
        }
    }
    keys = all_keys;
    values = all_values;
    return found < 0 ? -1 : merge_decoded(module, sink, &keys, &values, count);
}

static PyObject *
fold_table_merge(struct fold_table *self, PyObject *args)
{
    PyObject *module = PyType_GetModule(Py_TYPE(self)); /* borrowed */
    Py_buffer keys, values;
    Py_ssize_t count = 0;
    PyObject *result = NULL; /* owned */

    if (module == NULL || !PyArg_ParseTuple(args, "y*y*n:merge", &keys, &values, &count)) {
        return NULL;
    }
    const struct reader key_reader = {keys.buf, (const uint8_t *)keys.buf + keys.len};
    const struct reader value_reader = {values.buf, (const uint8_t *)values.buf + values.len};
    if (count < 0) {
        damaged();
    }
    else if (fold_table_enter(self) == 0) {
        struct sink sink = fold_table_sink(self);
        if (merge_encoded(module, &sink, key_reader, value_reader, (size_t)count) == 0) {
            result = PyLong_FromLongLong((long long)sink.used);
        }
        self->is_plain = sink.is_plain;
        self->is_busy = 0;
    }
    PyBuffer_Release(&keys);
    PyBuffer_Release(&values);
    return result;
}

static PyObject *
fold_table_merge_lists(struct fold_table *self, PyObject *args)
{
    PyObject *module = PyType_GetModule(Py_TYPE(self)); /* borrowed */
    PyObject *keys = NULL, *values = NULL;              /* borrowed from args */

    if (module == NULL
        || !PyArg_ParseTuple(args, "O!O!:merge_lists", &PyList_Type, &keys, &PyList_Type, &values)
        || fold_table_enter(self) < 0) {
        return NULL;
    }
    struct sink sink = fold_table_sink(self);
    const int result = merge_objects(module, &sink, keys, values);
    self->is_plain = sink.is_plain;
    self->is_busy = 0;
    return result < 0 ? NULL : PyLong_FromLongLong((long long)sink.used);
}

static PyObject *
fold_table_forget(struct fold_table *self, PyObject *Py_UNUSED(ignored))
{
    if (fold_table_enter(self) < 0) {
        return NULL;
    }
    const int result = fold_table_reset(self);
    self->is_busy = 0;
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
fold_table_take(struct fold_table *self, PyObject *Py_UNUSED(ignored))
{
    if (fold_table_enter(self) < 0) {
        return NULL;
    }
    PyObject *dict = self->dict; /* owned */
    int result = 0;
    self->dict = NULL;
    if (self->is_plain) {
        self->is_plain = 0;
        result = pour(&self->table, dict, self->op);
    }
    if (fold_table_reset(self) < 0 || result < 0) {
        Py_CLEAR(dict);
    }
    self->is_busy = 0;
    return dict;
}

#endif
