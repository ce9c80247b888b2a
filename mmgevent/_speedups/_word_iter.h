/* The iterator of words_of(). */

#ifndef MMGEVENT_WORD_ITER_H
#define MMGEVENT_WORD_ITER_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_word_grams.h"
#include "_words.h"

struct word_iter {
    PyObject_HEAD
    struct scanner scanner;
    struct grams grams;
    int is_running; /* the twin runs user code, which must not ask for another word */
};

static int
word_iter_traverse(struct word_iter *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->scanner.plan.tuple);
    Py_VISIT(self->scanner.owner);
    Py_VISIT(self->scanner.pending);
    return 0;
}

static void
word_iter_dealloc(struct word_iter *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    scanner_close(&self->scanner);
    grams_close(&self->grams);
    type->tp_free(self);
    Py_DECREF(type);
}

/* text_of_word -- new str of a word.
 *
 * Handing out one str for all occurrences of a word was tried, from a table of 64 to 8192: then fold() takes longer, by
 * more than making the str takes.  A str that was made just now is in the cache, and so is the memory of the next. */
static inline PyObject *
text_of_word(const struct word *word)
{
    if (!word->is_ascii || word->size < 2) { /* Python has the strs of one character already */
        return PyUnicode_DecodeUTF8((const char *)word->data, (Py_ssize_t)word->size, "surrogatepass");
    }
    PyObject *const text = PyUnicode_New((Py_ssize_t)word->size, 127);
    if (text != NULL) {
        memcpy(PyUnicode_1BYTE_DATA(text), word->data, word->size);
    }
    return text;
}

static PyObject *
word_iter_next(struct word_iter *self)
{
    struct word word;

    if (self->is_running) {
        PyErr_SetString(PyExc_ValueError, "iterator already executing");
        return NULL;
    }
    self->is_running = 1;
    const int found = next_gram(&self->scanner, &self->grams, &word);
    self->is_running = 0;
    if (found != FOUND) {
        scanner_leave(&self->scanner);
        return NULL;
    }
    return text_of_word(&word);
}

static PyType_Slot word_iter_slots[] = {
    {Py_tp_doc, "What words_of() returns."},
    {Py_tp_traverse, word_iter_traverse},
    {Py_tp_dealloc, word_iter_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, word_iter_next},
    {0, NULL},
};

static PyType_Spec word_iter_spec = {
    .name = "mmgevent._speedups._core.Words",
    .basicsize = sizeof(struct word_iter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = word_iter_slots,
};

static PyObject *
core_words_of(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyObject *type = NULL, *plan = NULL; /* owned */
    struct word_iter *self = NULL;       /* owned */

    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "words_of() takes 2 positional arguments, got %zd", count);
        return NULL;
    }
    if (!PyUnicode_Check(args[0])) {
        PyErr_Format(PyExc_TypeError, "a text must be str, got %.200s", Py_TYPE(args[0])->tp_name);
        return NULL;
    }
    plan = PyObject_GetAttrString(args[1], "plan");
    type = plan == NULL ? NULL : PyObject_GetAttrString(module, "_Words");
    self = type == NULL ? NULL : (struct word_iter *)((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
    if (self != NULL
        && (plan_open(&self->scanner.plan, plan) < 0 || grams_open(&self->grams, self->scanner.plan.n) < 0
            || scanner_open_text(&self->scanner, args[0]) < 0)) {
        Py_CLEAR(self);
    }
    Py_XDECREF(type);
    Py_XDECREF(plan);
    return (PyObject *)self;
}

#endif
