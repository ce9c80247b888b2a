/* The class WordCounter. */

#ifndef MMGEVENT_WORD_COUNT_H
#define MMGEVENT_WORD_COUNT_H

#include <Python.h>
#include <stdint.h>

#include "_word_grams.h"
#include "_word_table.h"
#include "_words.h"

#define BATCH_WORDS 16              /* words whose entries are fetched at one time: as many as memory serves at once */
#define BATCHES_BETWEEN_SIGNALS 16384 /* some ms, after which Ctrl-C must be seen */

/* The state of `_words.WordCounter`. */
struct word_counter {
    PyObject_HEAD
    struct scanner scanner;
    struct grams grams;
    struct word_table table;
    struct hashed_word batch[BATCH_WORDS]; /* words that were found and are not counted yet */
    int n_batch, n_counted;                /* how many there are, and how many of them were counted */
    struct bytes_room long_words;          /* those of the batch */
    uint32_t max_words;
    uint64_t max_bytes;
    int is_running; /* user code may call while `run` runs, and must not change the text */
};

static int
counter_traverse(struct word_counter *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->scanner.plan.tuple);
    Py_VISIT(self->scanner.owner);
    Py_VISIT(self->scanner.pending);
    return 0;
}

static void
counter_dealloc(struct word_counter *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    scanner_close(&self->scanner);
    grams_close(&self->grams);
    word_table_close(&self->table);
    PyMem_Free(self->long_words.data);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
counter_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *rules = NULL;     /* borrowed from args */
    PyObject *plan = NULL;      /* owned */
    struct word_counter *self = NULL; /* owned */
    unsigned long long max_words = 0, max_bytes = 0;

    if (!PyArg_ParseTuple(args, "OKK:WordCounter", &rules, &max_words, &max_bytes)) {
        return NULL;
    }
    if (max_words < 1 || max_words > MAX_COUNTED_WORDS) {
        PyErr_Format(PyExc_ValueError, "max_words must be from 1 to %lu", (unsigned long)MAX_COUNTED_WORDS);
        return NULL;
    }
    plan = PyObject_GetAttrString(rules, "plan");
    self = plan == NULL ? NULL : (struct word_counter *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->max_words = (uint32_t)max_words;
        self->max_bytes = max_bytes;
        self->scanner.is_over = 1;
        if (plan_open(&self->scanner.plan, plan) < 0 || grams_open(&self->grams, self->scanner.plan.n) < 0
            || word_table_open(&self->table) < 0) {
            Py_CLEAR(self);
        }
    }
    Py_XDECREF(plan);
    return (PyObject *)self;
}

/* check_idle -- 0, or -1 with ValueError if `run` is running. */
static int
check_idle(struct word_counter *self)
{
    if (self->is_running) {
        PyErr_SetString(PyExc_ValueError, "this counter is already counting");
        return -1;
    }
    return 0;
}

static PyObject *
counter_begin(struct word_counter *self, PyObject *args)
{
    PyObject *data = NULL, *encoding = NULL, *errors = NULL; /* borrowed from args, or owned below */
    int goes_on = 0, result = -1;

    if (!PyArg_ParseTuple(args, "O|UUp:begin", &data, &encoding, &errors, &goes_on) || check_idle(self) < 0) {
        return NULL;
    }
    self->n_batch = self->n_counted = 0;
    if (!goes_on) {
        grams_begin(&self->grams);
    }
    if (PyUnicode_Check(data)) {
        result = scanner_open_text(&self->scanner, data);
    }
    else if (!PyBytes_Check(data)) {
        PyErr_Format(PyExc_TypeError, "a text must be str or bytes, got %.200s", Py_TYPE(data)->tp_name);
    }
    else if (self->scanner.plan.kind == SEPARATED) {
        PyErr_SetString(PyExc_ValueError, "text that is separated must be decoded first");
    }
    else {
        encoding = encoding != NULL ? Py_NewRef(encoding) : PyUnicode_FromString("utf-8");
        errors = errors != NULL ? Py_NewRef(errors) : PyUnicode_FromString("strict");
        if (encoding != NULL && errors != NULL) {
            result = scanner_open_bytes(&self->scanner, data, encoding, errors);
        }
        Py_XDECREF(encoding);
        Py_XDECREF(errors);
    }
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* fill_batch -- find the next words: as next_word() if the text ends or fails before the batch is full. */
static int
fill_batch(struct word_counter *self)
{
    struct word word;
    size_t n_bytes = 0;
    int found = FOUND;

    self->n_batch = self->n_counted = 0;
    while (self->n_batch < BATCH_WORDS && (found = next_gram(&self->scanner, &self->grams, &word)) == FOUND) {
        struct hashed_word *const held = &self->batch[self->n_batch];
        held->words[0] = word.words[0];
        held->words[1] = word.words[1];
        held->size = word.size;
        held->data = word.data;
        word_table_prepare(&self->table, held);
        if (word.size > INLINE_BYTES) {
            if (room_for(&self->long_words, n_bytes + word.size) < 0) {
                return -1;
            }
            memcpy(self->long_words.data + n_bytes, word.data, word.size);
            n_bytes += word.size;
        }
        self->n_batch++;
    }
    n_bytes = 0;
    for (int i = 0; i < self->n_batch; i++) { /* now that they do not move any more */
        if (self->batch[i].size > INLINE_BYTES) {
            self->batch[i].data = self->long_words.data + n_bytes;
            n_bytes += self->batch[i].size;
        }
    }
    return found;
}

/* count_batch -- count the words of the batch: 0, or 1 if there is no room for more, or -1 with MemoryError. */
static inline int
count_batch(struct word_counter *self)
{
    while (self->n_counted < self->n_batch) {
        const int is_new = word_table_count(&self->table, &self->batch[self->n_counted++]);
        if (is_new < 0) {
            return -1;
        }
        if (is_new && (self->table.size >= self->max_words || self->table.n_bytes >= self->max_bytes)) {
            return 1;
        }
    }
    return 0;
}

/* count_words -- count the words of the text: 1 if none are left, 0 if there is no more room, -1 with an exception. */
static int
count_words(struct word_counter *self)
{
    int found = FOUND;

    for (uint32_t i = 1;; i++) {
        const int is_full = count_batch(self);
        if (is_full != 0) {
            return is_full < 0 ? -1 : 0;
        }
        if (found == NO_MORE) {
            return 1;
        }
        found = fill_batch(self);
        if (found < 0 || (i % BATCHES_BETWEEN_SIGNALS == 0 && PyErr_CheckSignals() < 0)) {
            return -1;
        }
    }
}

static PyObject *
counter_run(struct word_counter *self, PyObject *Py_UNUSED(ignored))
{
    if (check_idle(self) < 0) {
        return NULL;
    }
    self->is_running = 1;
    const int result = count_words(self);
    self->is_running = 0;
    if (result != 0) {
        self->n_batch = self->n_counted = 0;
        scanner_leave(&self->scanner);
    }
    return result < 0 ? NULL : PyBool_FromLong(result);
}

static PyObject *
counter_take(struct word_counter *self, PyObject *Py_UNUSED(ignored))
{
    return check_idle(self) < 0 ? NULL : word_table_take(&self->table, 0);
}

static PyObject *
counter_take_dict(struct word_counter *self, PyObject *Py_UNUSED(ignored))
{
    return check_idle(self) < 0 ? NULL : word_table_take(&self->table, 1);
}

static PyMethodDef counter_methods[] = {
    {"begin", (PyCFunction)counter_begin, METH_VARARGS, "See _words.WordCounter.begin."},
    {"run", (PyCFunction)counter_run, METH_NOARGS, "See _words.WordCounter.run."},
    {"take", (PyCFunction)counter_take, METH_NOARGS, "See _words.WordCounter.take."},
    {"take_dict", (PyCFunction)counter_take_dict, METH_NOARGS, "See _words.WordCounter.take_dict."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot counter_slots[] = {
    {Py_tp_doc, "See _words.WordCounter."},
    {Py_tp_new, counter_new},
    {Py_tp_traverse, counter_traverse},
    {Py_tp_dealloc, counter_dealloc},
    {Py_tp_methods, counter_methods},
    {0, NULL},
};

static PyType_Spec counter_spec = {
    .name = "mmgevent._speedups._core.WordCounter",
    .basicsize = sizeof(struct word_counter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = counter_slots,
};

#endif
