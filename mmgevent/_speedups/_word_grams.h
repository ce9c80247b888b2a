/* Words that follow each other, joined by blanks: n-grams. */

#ifndef MMGEVENT_WORD_GRAMS_H
#define MMGEVENT_WORD_GRAMS_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_words.h"

#define GRAM_BYTES 65536 /* words that are kept before those that are not needed are dropped, bytes */

/* The last words of a text, with a blank after each.  An n-gram is a part of that. */
struct grams {
    struct bytes_room bytes;
    size_t size;
    size_t *starts;   /* of the last n words, in a ring; NULL if n is 1 */
    uint64_t n_words; /* of the text so far */
};

/* grams_open -- make room for n starts; 0, or -1 with MemoryError.  Call grams_close() in either case. */
static int
grams_open(struct grams *self, Py_ssize_t n)
{
    memset(self, 0, sizeof *self);
    if (n == 1) {
        return 0;
    }
    self->starts = PyMem_Calloc((size_t)n, sizeof *self->starts);
    if (self->starts == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static void
grams_close(struct grams *self)
{
    PyMem_Free(self->bytes.data);
    PyMem_Free(self->starts);
    memset(self, 0, sizeof *self);
}

/* grams_begin -- forget the words of the text before. */
static void
grams_begin(struct grams *self)
{
    self->size = 0;
    self->n_words = 0;
}

/* drop_words -- drop the bytes before the n - 1 words that the next n-gram begins with. */
static void
drop_words(struct grams *self, uint64_t n)
{
    const size_t first = self->starts[(self->n_words + 1) % n];

    if (self->n_words < n || first <= self->size / 2) {
        return;
    }
    self->size -= first;
    memmove(self->bytes.data, self->bytes.data + first, self->size);
    for (uint64_t word = self->n_words - n + 1; word < self->n_words; word++) {
        self->starts[word % n] -= first;
    }
}

/* next_gram -- find the next n-gram: FOUND, NO_MORE, or -1 with an exception.  See next_word(). */
static inline int
next_gram(struct scanner *scanner, struct grams *self, struct word *gram)
{
    const uint64_t n = (uint64_t)scanner->plan.n;

    if (n == 1) {
        return next_word(scanner, gram);
    }
    for (;;) {
        struct word word;
        const int found = next_word(scanner, &word);
        if (found != FOUND) {
            return found;
        }
        if (self->size > GRAM_BYTES) {
            drop_words(self, n);
        }
        if (room_for(&self->bytes, self->size + word.size + 1) < 0) {
            return -1;
        }
        self->starts[self->n_words++ % n] = self->size;
        memcpy(self->bytes.data + self->size, word.data, word.size);
        self->size += word.size;
        self->bytes.data[self->size++] = ' ';
        if (self->n_words < n) {
            continue;
        }
        const size_t first = self->starts[self->n_words % n];
        gram->data = self->bytes.data + first;
        gram->size = self->size - 1 - first;
        gram->is_ascii = 0; /* not known */
        inline_short(gram);
        return FOUND;
    }
}

#endif
