/* Records of the bytes of a file, with their places: lines_of(), pieces_of(), placed(), values_of(), CsvRows. */

#ifndef MMGEVENT_UNITS_H
#define MMGEVENT_UNITS_H

#include <Python.h>
#include <structmember.h>
#include <string.h>

#include "_twin.h"

/* make_pair -- new tuple of two objects, which it takes over; NULL with an exception, also if one is NULL. */
static PyObject *
make_pair(PyObject *first, PyObject *second)
{
    PyObject *pair = first == NULL || second == NULL ? NULL : PyTuple_New(2); /* owned */

    if (pair == NULL) {
        Py_XDECREF(first);
        Py_XDECREF(second);
        return NULL;
    }
    PyTuple_SET_ITEM(pair, 0, first);
    PyTuple_SET_ITEM(pair, 1, second);
    return pair;
}

/* make_key -- new (path, offset), or NULL with an exception. */
static inline PyObject *
make_key(PyObject *path, long long offset)
{
    PyObject *number = PyLong_FromLongLong(offset); /* owned; the tuple takes it over */

    return make_pair(number == NULL ? NULL : Py_NewRef(path), number);
}

/* Bytes that are read from their start.  All objects are owned. */
struct text {
    PyObject *data; /* bytes; NULL after their end */
    PyObject *encoding, *errors;
    Py_ssize_t at;
    int is_like_ascii;
};

static void
text_open(struct text *self, PyObject *data, PyObject *encoding, PyObject *errors, int is_like_ascii)
{
    self->data = Py_NewRef(data);
    self->encoding = Py_NewRef(encoding);
    self->errors = Py_NewRef(errors);
    self->at = 0;
    self->is_like_ascii = is_like_ascii;
}

static void
text_close(struct text *self)
{
    Py_CLEAR(self->data);
    Py_CLEAR(self->encoding);
    Py_CLEAR(self->errors);
}

/* is_ascii -- whether no byte is above 127. */
static int
is_ascii(const char *bytes, Py_ssize_t n_bytes)
{
    uint64_t all = 0, word = 0;

    for (; n_bytes >= 8; n_bytes -= 8, bytes += 8) {
        memcpy(&word, bytes, 8);
        all |= word;
    }
    for (; n_bytes > 0; n_bytes--, bytes++) {
        all |= (unsigned char)*bytes;
    }
    return (all & 0x8080808080808080ULL) == 0;
}

/* decode -- new str of some of the bytes, or NULL with an exception. */
static PyObject *
decode(const struct text *self, const char *bytes, Py_ssize_t n_bytes)
{
    if (self->is_like_ascii && is_ascii(bytes, n_bytes)) {
        PyObject *text = PyUnicode_New(n_bytes, 127); /* owned */
        if (text != NULL && n_bytes > 0) {
            memcpy(PyUnicode_DATA(text), bytes, (size_t)n_bytes);
        }
        return text;
    }
    /* Owned: codecs and handlers of errors may run any code, which may end the text. */
    PyObject *const names[] = {Py_NewRef(self->encoding), Py_NewRef(self->errors)};
    const char *const encoding = PyUnicode_AsUTF8(names[0]); /* borrowed from the str */
    const char *const errors = encoding == NULL ? NULL : PyUnicode_AsUTF8(names[1]);
    PyObject *const text = errors == NULL ? NULL : PyUnicode_Decode(bytes, n_bytes, encoding, errors);
    Py_DECREF(names[0]);
    Py_DECREF(names[1]);
    return text;
}

/* -- lines_of(), pieces_of() and placed() */

enum { LINES, PIECES, PLACED };

/* All objects are owned. */
struct units {
    PyObject_HEAD
    int kind;
    PyObject *path;
    long long offset;    /* of the next unit, or, for PIECES, of the data */
    struct text text;    /* for LINES and PIECES */
    Py_ssize_t ignored;  /* for LINES: bytes of the next line that are not given */
    Py_ssize_t n_bytes;  /* for PIECES: of one; for PLACED: after each */
    PyObject *broken;    /* for LINES */
    PyObject *records;   /* for PLACED: iterator */
};

static int
units_traverse(struct units *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->broken);
    Py_VISIT(self->records);
    return 0;
}

static int
units_clear(struct units *self)
{
    text_close(&self->text);
    Py_CLEAR(self->path);
    Py_CLEAR(self->broken);
    Py_CLEAR(self->records);
    return 0;
}

static void
units_dealloc(struct units *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    units_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* next_line -- new record of the next line, or NULL at the end or with an exception.  Its place goes to *offset. */
static PyObject *
next_line(struct units *self, long long *offset)
{
    struct text *const text = &self->text;
    const Py_ssize_t size = PyBytes_GET_SIZE(text->data) - text->at - self->ignored;

    if (size <= 0) {
        text_close(text);
        return NULL;
    }
    const char *start = PyBytes_AS_STRING(text->data) + text->at + self->ignored;
    const char *line_end = memchr(start, '\n', (size_t)size);
    Py_ssize_t n_bytes = line_end == NULL ? size : line_end - start;
    const Py_ssize_t taken = self->ignored + n_bytes + 1;

    *offset = self->offset;
    self->ignored = 0;
    self->offset += taken;
    text->at += line_end == NULL ? taken - 1 : taken;
    if (n_bytes > 0 && start[n_bytes - 1] == '\r') {
        n_bytes--;
    }
    PyObject *value = decode(text, start, n_bytes); /* owned */
    if (value == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        PyObject *line = PyBytes_FromStringAndSize(start, n_bytes); /* owned */
        value = line == NULL ? NULL : PyObject_CallFunction(self->broken, "OL", line, *offset);
        Py_XDECREF(line);
    }
    return value;
}

/* next_record -- new next record, or NULL at the end or with an exception.  Its place goes to *offset. */
static PyObject *
next_record(struct units *self, long long *offset)
{
    PyObject *record = NULL; /* owned */

    *offset = self->offset;
    if (self->kind == PLACED) {
        record = self->records == NULL ? NULL : PyIter_Next(self->records);
        if (record == NULL) {
            return NULL;
        }
        const Py_ssize_t n_bytes = PyObject_Size(record);
        if (n_bytes < 0) {
            Py_CLEAR(record);
        }
        self->offset += n_bytes + self->n_bytes;
        return record;
    }
    if (self->text.data == NULL) {
        return NULL;
    }
    if (self->kind == LINES) {
        PyObject *data = Py_NewRef(self->text.data); /* owned: broken() may run any code */
        record = next_line(self, offset);
        Py_DECREF(data);
        return record;
    }
    if (PyBytes_GET_SIZE(self->text.data) - self->text.at < self->n_bytes) {
        text_close(&self->text);
        return NULL;
    }
    *offset += self->text.at;
    record = PyBytes_FromStringAndSize(PyBytes_AS_STRING(self->text.data) + self->text.at, self->n_bytes);
    self->text.at += self->n_bytes;
    return record;
}

/* units_take -- take the next unit.
 *
 * key, record  set to new references.
 *
 * Returns 1, or 0 at the end, or -1 with an exception. */
static int
units_take(struct units *self, PyObject **key, PyObject **record)
{
    long long offset = 0;

    *record = next_record(self, &offset);
    if (*record == NULL) {
        keep_raising();
        return PyErr_Occurred() ? -1 : 0;
    }
    *key = make_key(self->path, offset);
    if (*key == NULL) {
        Py_CLEAR(*record);
        return -1;
    }
    return 1;
}

static PyObject *
units_next(struct units *self)
{
    PyObject *key = NULL, *record = NULL; /* owned; the tuple takes them over */

    return units_take(self, &key, &record) > 0 ? make_pair(key, record) : NULL;
}

static PyType_Slot units_slots[] = {
    {Py_tp_doc, "What lines_of(), pieces_of() and placed() return."},
    {Py_tp_traverse, units_traverse},
    {Py_tp_clear, units_clear},
    {Py_tp_dealloc, units_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, units_next},
    {0, NULL},
};

static PyType_Spec units_spec = {
    .name = "mmgevent._speedups._core.Units",
    .basicsize = sizeof(struct units),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = units_slots,
};

/* new_object -- new object of a class that module_exec() made, all of whose fields are 0; or NULL with an exception. */
static void *
new_object(PyObject *module, const char *name)
{
    PyObject *type = PyObject_GetAttrString(module, name); /* owned */
    PyObject *object = NULL;

    if (type != NULL) {
        object = ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
        Py_DECREF(type);
    }
    return object;
}

static PyObject *
core_lines_of(PyObject *module, PyObject *args)
{
    PyObject *path = NULL, *data = NULL, *encoding = NULL, *errors = NULL, *broken = NULL; /* borrowed from args */
    long long offset = 0;
    Py_ssize_t ignored = 0;
    int is_like_ascii = 0;
    struct units *self = NULL; /* owned */

    if (!PyArg_ParseTuple(args, "O!LO!nO!O!pO:lines_of", &PyUnicode_Type, &path, &offset, &PyBytes_Type, &data,
                          &ignored, &PyUnicode_Type, &encoding, &PyUnicode_Type, &errors, &is_like_ascii, &broken)) {
        return NULL;
    }
    if (ignored < 0 || ignored > PyBytes_GET_SIZE(data)) {
        PyErr_SetString(PyExc_ValueError, "more bytes are ignored than there are");
        return NULL;
    }
    self = new_object(module, "_Units");
    if (self != NULL) {
        self->kind = LINES;
        self->path = Py_NewRef(path);
        self->offset = offset;
        self->ignored = ignored;
        self->broken = Py_NewRef(broken);
        text_open(&self->text, data, encoding, errors, is_like_ascii);
    }
    return (PyObject *)self;
}

static PyObject *
core_pieces_of(PyObject *module, PyObject *args)
{
    PyObject *path = NULL, *data = NULL; /* borrowed from args */
    long long offset = 0;
    Py_ssize_t n_bytes = 0;
    struct units *self = NULL; /* owned */

    if (!PyArg_ParseTuple(args, "O!LO!n:pieces_of", &PyUnicode_Type, &path, &offset, &PyBytes_Type, &data, &n_bytes)) {
        return NULL;
    }
    if (n_bytes < 1) {
        PyErr_SetString(PyExc_ValueError, "a piece has at least one byte");
        return NULL;
    }
    self = new_object(module, "_Units");
    if (self != NULL) {
        self->kind = PIECES;
        self->path = Py_NewRef(path);
        self->offset = offset;
        self->n_bytes = n_bytes;
        text_open(&self->text, data, Py_None, Py_None, 0);
    }
    return (PyObject *)self;
}

static PyObject *
core_placed(PyObject *module, PyObject *args)
{
    PyObject *path = NULL, *records = NULL; /* borrowed from args */
    long long offset = 0;
    Py_ssize_t between = 0;
    struct units *self = NULL; /* owned */

    if (!PyArg_ParseTuple(args, "O!LOn:placed", &PyUnicode_Type, &path, &offset, &records, &between)) {
        return NULL;
    }
    self = new_object(module, "_Units");
    if (self != NULL) {
        self->kind = PLACED;
        self->path = Py_NewRef(path);
        self->offset = offset;
        self->n_bytes = between;
        self->records = PyObject_GetIter(records);
        if (self->records == NULL) {
            Py_CLEAR(self);
        }
    }
    return (PyObject *)self;
}

/* -- values_of() */

/* All objects are owned. */
struct values {
    PyObject_HEAD
    PyObject *lines, *scan, *parse;
    PyObject *unscanned; /* exceptions */
    PyObject *zero;
};

static int
values_traverse(struct values *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->lines);
    Py_VISIT(self->scan);
    Py_VISIT(self->parse);
    Py_VISIT(self->unscanned);
    return 0;
}

static int
values_clear(struct values *self)
{
    Py_CLEAR(self->lines);
    Py_CLEAR(self->scan);
    Py_CLEAR(self->parse);
    Py_CLEAR(self->unscanned);
    Py_CLEAR(self->zero);
    return 0;
}

static void
values_dealloc(struct values *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    values_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* scan_line -- set *value to a new reference: 1; 0 if the line must be parsed with more care, -1 with an exception. */
static int
scan_line(struct values *self, PyObject *line, PyObject **value)
{
    PyObject *args[] = {line, self->zero};                                /* borrowed */
    PyObject *scanned = PyObject_Vectorcall(self->scan, args, 2, NULL); /* owned */
    int result = 0;

    if (scanned == NULL) {
        if (!PyErr_ExceptionMatches(self->unscanned)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    if (PyTuple_CheckExact(scanned) && PyTuple_GET_SIZE(scanned) == 2) {
        const Py_ssize_t end = PyLong_AsSsize_t(PyTuple_GET_ITEM(scanned, 1));
        if (end == -1 && PyErr_Occurred()) {
            result = -1;
        }
        else if (end == PyUnicode_GET_LENGTH(line)) {
            *value = Py_NewRef(PyTuple_GET_ITEM(scanned, 0));
            result = 1;
        }
    }
    Py_DECREF(scanned);
    return result;
}

static PyObject *
values_next(struct values *self)
{
    for (;;) {
        PyObject *unit = self->lines == NULL ? NULL : PyIter_Next(self->lines); /* owned */
        PyObject *key = NULL, *line = NULL, *value = NULL;                      /* owned */
        PyObject *parsed = NULL;                                                /* owned */
        int scanned = -1;

        if (unit == NULL) {
            return NULL;
        }
        if (!PyTuple_Check(unit) || PyTuple_GET_SIZE(unit) != 2) {
            PyErr_SetString(PyExc_TypeError, "a unit must be (key, line)");
            Py_DECREF(unit);
            return NULL;
        }
        key = Py_NewRef(PyTuple_GET_ITEM(unit, 0));
        line = Py_NewRef(PyTuple_GET_ITEM(unit, 1));
        Py_DECREF(unit);
        scanned = PyUnicode_CheckExact(line) ? scan_line(self, line, &value) : 0;
        if (scanned > 0) {
            parsed = make_pair(Py_NewRef(key), Py_NewRef(value));
        }
        else if (scanned == 0) {
            parsed = PyObject_CallFunctionObjArgs(self->parse, key, line, NULL);
        }
        Py_XDECREF(value);
        Py_DECREF(line);
        Py_DECREF(key);
        if (parsed != Py_None) {
            keep_raising();
            return parsed;
        }
        Py_DECREF(parsed);
    }
}

static PyType_Slot values_slots[] = {
    {Py_tp_doc, "What values_of() returns."},
    {Py_tp_traverse, values_traverse},
    {Py_tp_clear, values_clear},
    {Py_tp_dealloc, values_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, values_next},
    {0, NULL},
};

static PyType_Spec values_spec = {
    .name = "mmgevent._speedups._core.Values",
    .basicsize = sizeof(struct values),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = values_slots,
};

static PyObject *
core_values_of(PyObject *module, PyObject *args)
{
    PyObject *lines = NULL, *scan = NULL, *parse = NULL; /* borrowed from args */
    struct values *self = NULL;                          /* owned */

    if (!PyArg_ParseTuple(args, "OOO:values_of", &lines, &scan, &parse)) {
        return NULL;
    }
    self = new_object(module, "_Values");
    if (self != NULL) {
        self->scan = Py_NewRef(scan);
        self->parse = Py_NewRef(parse);
        self->lines = PyObject_GetIter(lines);
        self->zero = self->lines == NULL ? NULL : PyLong_FromLong(0);
        self->unscanned = self->zero == NULL ? NULL
                                             : PyTuple_Pack(4, PyExc_StopIteration, PyExc_ValueError,
                                                            PyExc_RecursionError, PyExc_TypeError);
        if (self->unscanned == NULL) {
            Py_CLEAR(self);
        }
    }
    return (PyObject *)self;
}

#endif
