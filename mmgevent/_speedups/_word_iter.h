/* The iterator of words_of(). */

#ifndef MMGEVENT_WORD_ITER_H
#define MMGEVENT_WORD_ITER_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_word_grams.h"
#include "_word_table.h"
#include "_words.h"

#define FEWEST_KNOWN 64        /* entries of the table of known words; shorter texts repeat hardly any */
#define MOST_KNOWN 8192        /* entries: 256 KiB, which fits a cache */
#define TEXT_BYTES_A_KNOWN 16  /* bytes of text for each entry */

/* A str that was made already.  A later word whose hash leads here replaces it. */
struct known_word {
    uint64_t words[2];
    size_t size;
    PyObject *text; /* owned; NULL before the first */
};

struct word_iter {
    PyObject_HEAD
    struct scanner scanner;
    struct grams grams;
    struct known_word *known; /* NULL if the text is short */
    uint64_t mask;
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
    for (uint64_t i = 0; self->known != NULL && i <= self->mask; i++) {
        Py_XDECREF(self->known[i].text);
    }
    PyMem_Free(self->known);
    scanner_close(&self->scanner);
    grams_close(&self->grams);
    type->tp_free(self);
    Py_DECREF(type);
}

/* text_of -- new str of a word. */
static inline PyObject *
text_of(const struct word *word)
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

/* known_text -- new reference to the str of a word that fits two registers. */
static inline PyObject *
known_text(struct word_iter *self, const struct word *word)
{
    struct known_word *const known = &self->known[hash_inline(word->words, (uint32_t)word->size, 0) & self->mask];

    if (known->text != NULL && known->words[0] == word->words[0] && known->words[1] == word->words[1]
        && known->size == word->size) {
        return Py_NewRef(known->text);
    }
    PyObject *const text = text_of(word);
    if (text != NULL) {
        known->words[0] = word->words[0];
        known->words[1] = word->words[1];
        known->size = word->size;
        Py_XSETREF(known->text, Py_NewRef(text));
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
    return self->known != NULL && word.size <= INLINE_BYTES ? known_text(self, &word) : text_of(&word);
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

/* open_known -- make the table of known words for a text; 0, or -1 with MemoryError. */
static int
open_known(struct word_iter *self)
{
    const size_t wanted = (size_t)(self->scanner.end - self->scanner.begin) / TEXT_BYTES_A_KNOWN;
    size_t count = FEWEST_KNOWN;

    if (wanted < FEWEST_KNOWN) {
        return 0;
    }
    while (count < wanted && count < MOST_KNOWN) {
        count *= 2;
    }
    self->mask = count - 1;
    self->known = PyMem_Calloc(count, sizeof *self->known);
    if (self->known == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

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
            || scanner_open_text(&self->scanner, args[0]) < 0 || open_known(self) < 0)) {
        Py_CLEAR(self);
    }
    Py_XDECREF(type);
    Py_XDECREF(plan);
    return (PyObject *)self;
}

#endif
