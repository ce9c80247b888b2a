/* Rows of CSV in the bytes of a file: the class CsvRows. */

#ifndef MMGEVENT_ROWS_H
#define MMGEVENT_ROWS_H

#include <Python.h>
#include <structmember.h>
#include <string.h>

#include "_units.h"

/* The lines of bytes with their line ends, as str: what a csv.reader reads.  All objects are owned. */
struct row_lines {
    PyObject_HEAD
    struct text text;
    PyObject *taken_back;  /* a line that is given once more; or NULL */
    Py_ssize_t feed_end;   /* where the bytes up to a line feed end, or all; the next line ends there at the latest */
};

static void
row_lines_dealloc(struct row_lines *self)
{
    PyTypeObject *type = Py_TYPE(self);

    text_close(&self->text);
    Py_CLEAR(self->taken_back);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
row_lines_next(struct row_lines *self)
{
    struct text *const text = &self->text;
    PyObject *const taken_back = self->taken_back; /* owned: the caller takes it over */

    if (taken_back != NULL) {
        self->taken_back = NULL;
        return taken_back;
    }
    if (text->data == NULL || text->at >= PyBytes_GET_SIZE(text->data)) {
        return NULL;
    }
    const char *const start = PyBytes_AS_STRING(text->data) + text->at;
    if (text->at >= self->feed_end) { /* once for many lines that end with \r */
        const Py_ssize_t size = PyBytes_GET_SIZE(text->data) - text->at;
        const char *const feed = memchr(start, '\n', (size_t)size);
        self->feed_end = text->at + (feed == NULL ? size : feed - start + 1);
    }
    Py_ssize_t n_bytes = self->feed_end - text->at;
    const char *const carriage = memchr(start, '\r', (size_t)n_bytes);
    if (carriage != NULL && !(carriage - start == n_bytes - 2 && carriage[1] == '\n')) {
        n_bytes = carriage - start + 1;
    }
    text->at += n_bytes;
    return decode(text, start, n_bytes);
}

static PyType_Slot row_lines_slots[] = {
    {Py_tp_doc, "The lines that CsvRows reads."},
    {Py_tp_dealloc, row_lines_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, row_lines_next},
    {0, NULL},
};

static PyType_Spec row_lines_spec = {
    .name = "mmgevent._speedups._core.RowLines",
    .basicsize = sizeof(struct row_lines),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = row_lines_slots,
};

#define NO_QUOTE 0x110000 /* no character */

/* The state of `_units.CsvRows` between two rows.  All objects are owned. */
struct rows {
    PyObject_HEAD
    PyObject *path;
    struct row_lines *lines;
    PyObject *reader; /* NULL after the last row */
    PyObject *names;  /* tuple or None */
    PyObject *wrong_width, *unreadable;
    PyObject *delimiter; /* str of one character */
    Py_UCS4 quote;       /* NO_QUOTE if there is none */
    Py_ssize_t field_limit;
    long long offset; /* of the bytes */
    long long at;     /* where the next row begins */
    char has_failed;
};

static int
rows_traverse(struct rows *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->lines);
    Py_VISIT(self->reader);
    Py_VISIT(self->names);
    Py_VISIT(self->wrong_width);
    Py_VISIT(self->unreadable);
    return 0;
}

static int
rows_clear(struct rows *self)
{
    Py_CLEAR(self->path);
    Py_CLEAR(self->lines);
    Py_CLEAR(self->reader);
    Py_CLEAR(self->names);
    Py_CLEAR(self->delimiter);
    Py_CLEAR(self->wrong_width);
    Py_CLEAR(self->unreadable);
    return 0;
}

static void
rows_dealloc(struct rows *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    rows_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
rows_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *path = NULL, *data = NULL, *encoding = NULL, *errors = NULL; /* borrowed from args */
    PyObject *make_reader = NULL, *names = NULL, *wrong_width = NULL, *unreadable = NULL; /* borrowed from args */
    PyObject *module = PyType_GetModule(type);                                            /* borrowed */
    PyObject *reader = NULL;                                                              /* owned */
    struct rows *self = NULL;                                                             /* owned */
    PyObject *delimiter = NULL, *quote = NULL; /* borrowed from args */
    Py_ssize_t field_limit = 0;
    long long offset = 0;
    int is_like_ascii = 0;

    if (module == NULL
        || !PyArg_ParseTuple(args, "O!LO!O!O!pOO!OnOOO!:CsvRows", &PyUnicode_Type, &path, &offset, &PyBytes_Type,
                             &data, &PyUnicode_Type, &encoding, &PyUnicode_Type, &errors, &is_like_ascii,
                             &make_reader, &PyUnicode_Type, &delimiter, &quote, &field_limit, &names, &wrong_width,
                             &PyTuple_Type, &unreadable)) {
        return NULL;
    }
    if (PyUnicode_GetLength(delimiter) != 1
        || (quote != Py_None && (!PyUnicode_Check(quote) || PyUnicode_GetLength(quote) != 1))) {
        PyErr_SetString(PyExc_TypeError, "delimiter must be one character, and quotechar one, or None");
        return NULL;
    }
    if (names != Py_None && !PyTuple_Check(names)) {
        PyErr_SetString(PyExc_TypeError, "names must be a tuple or None");
        return NULL;
    }
    self = (struct rows *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->path = Py_NewRef(path);
    self->names = Py_NewRef(names);
    self->wrong_width = Py_NewRef(wrong_width);
    self->unreadable = Py_NewRef(unreadable);
    self->delimiter = Py_NewRef(delimiter);
    self->quote = quote == Py_None ? NO_QUOTE : PyUnicode_ReadChar(quote, 0);
    self->field_limit = field_limit;
    self->offset = self->at = offset;
    self->lines = new_object(module, "_RowLines");
    if (self->lines != NULL) {
        text_open(&self->lines->text, data, encoding, errors, is_like_ascii);
        reader = PyObject_CallOneArg(make_reader, (PyObject *)self->lines);
    }
    self->reader = reader == NULL ? NULL : PyObject_GetIter(reader);
    Py_XDECREF(reader);
    if (self->reader == NULL) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

/* make_record -- new dict or tuple of a row, or what wrong_width() returns; NULL with an exception. */
static PyObject *
make_record(struct rows *self, PyObject *row)
{
    const Py_ssize_t width = PyList_GET_SIZE(row);

    if (self->names == Py_None) {
        return PyList_AsTuple(row);
    }
    if (PyTuple_GET_SIZE(self->names) != width) {
        return PyObject_CallFunction(self->wrong_width, "nL", width, self->at);
    }
    PyObject *record = PyDict_New(); /* owned */
    for (Py_ssize_t i = 0; record != NULL && i < width && i < PyList_GET_SIZE(row); i++) {
        PyObject *field = Py_NewRef(PyList_GET_ITEM(row, i)); /* owned */
        if (PyDict_SetItem(record, PyTuple_GET_ITEM(self->names, i), field) < 0) {
            Py_CLEAR(record);
        }
        Py_DECREF(field);
    }
    return record;
}

/* split_line -- new list of the fields of a line without quotes, as csv.reader makes it; NULL with an exception. */
static PyObject *
split_line(struct rows *self, PyObject *line)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(line);
    PyObject *bare = NULL, *fields = NULL; /* owned */

    while (length > 0 && (PyUnicode_READ_CHAR(line, length - 1) == '\n' || PyUnicode_READ_CHAR(line, length - 1) == '\r')) {
        length--;
    }
    if (length == 0) {
        return PyList_New(0);
    }
    bare = PyUnicode_Substring(line, 0, length);
    fields = bare == NULL ? NULL : PyUnicode_Split(bare, self->delimiter, -1);
    Py_XDECREF(bare);
    return fields;
}

/* next_row -- new list of the fields of the next row, or NULL at the end or with an exception.
 *
 * A row begins where a line does, and ends with it if there is no quote in it.  Such a row is split
 * here, in a third of the time. */
static PyObject *
next_row(struct rows *self)
{
    struct row_lines *const lines = self->lines;
    PyObject *line = row_lines_next(lines); /* owned */
    PyObject *row = NULL;                   /* owned */

    if (line == NULL) {
        return NULL;
    }
    const Py_ssize_t length = PyUnicode_GET_LENGTH(line);
    if (length <= self->field_limit
        && (self->quote == NO_QUOTE || PyUnicode_FindChar(line, self->quote, 0, length, 1) == -1)) {
        row = split_line(self, line);
        Py_DECREF(line);
        return row;
    }
    PyObject *const reader = Py_NewRef(self->reader); /* owned */
    Py_XSETREF(lines->taken_back, line);
    row = PyIter_Next(reader);
    Py_DECREF(reader);
    return row;
}

static PyObject *
rows_next(struct rows *self)
{
    while (self->reader != NULL) {
        PyObject *row = next_row(self); /* owned */
        PyObject *unit = NULL;          /* owned */

        if (row == NULL) {
            if (PyErr_Occurred() && PyErr_ExceptionMatches(self->unreadable)) {
                PyErr_Clear();
                self->has_failed = 1;
            }
            Py_CLEAR(self->reader);
            return NULL;
        }
        if (!PyList_CheckExact(row)) {
            PyErr_SetString(PyExc_TypeError, "a row must be a list");
            Py_DECREF(row);
            return NULL;
        }
        if (PyList_GET_SIZE(row) > 0) {
            PyObject *key = make_key(self->path, self->at); /* owned; the tuple takes it over */
            unit = make_pair(key, key == NULL ? NULL : make_record(self, row));
            if (unit == NULL) {
                keep_raising();
                Py_DECREF(row);
                return NULL;
            }
        }
        self->at = self->offset + self->lines->text.at;
        Py_DECREF(row);
        if (unit != NULL) {
            return unit;
        }
    }
    return NULL;
}

static PyMemberDef rows_members[] = {
    {"at", T_LONGLONG, offsetof(struct rows, at), READONLY, NULL},
    {"has_failed", T_BOOL, offsetof(struct rows, has_failed), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot rows_slots[] = {
    {Py_tp_doc, "See _units.CsvRows."},
    {Py_tp_new, rows_new},
    {Py_tp_traverse, rows_traverse},
    {Py_tp_clear, rows_clear},
    {Py_tp_dealloc, rows_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, rows_next},
    {Py_tp_members, rows_members},
    {0, NULL},
};

static PyType_Spec rows_spec = {
    .name = "mmgevent._speedups._core.CsvRows",
    .basicsize = sizeof(struct rows),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = rows_slots,
};

#endif
