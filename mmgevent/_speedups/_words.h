/* Find the words of a text, one after another.
 *
 * A text is UTF-8, ASCII or Latin-1.  Runs of ASCII take one look at a table a byte.  Other characters are decoded
 * here, one by one.  What must be seen with its surroundings goes to the twin, a run at a time: U+0130, whose lower
 * case is two characters, a capital sigma, whose lower case depends on its neighbours, the Kelvin sign, whose lower
 * case is ASCII, and bytes that are not of the encoding.
 *
 * Words come as UTF-8, with lone surrogates as three bytes.  So two words are equal if their bytes are. */

#ifndef MMGEVENT_WORDS_H
#define MMGEVENT_WORDS_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_word_codec.h"

enum { ASCII_SET = 0, WORD_SET = 1, NOT_SPACE = 2, SEPARATED = 3 }; /* as in _words.py */
enum { BETWEEN_WORDS = 0, IN_WORD = 1, BEYOND_ASCII = 2 };            /* as in _words.py */
enum { NO_MORE = 0, FOUND = 1, ODD = 2 };

#define N_BYTES 256
#define INLINE_BYTES 16 /* longest word that fits two registers, bytes */
#define DOTTED_I 0x130
#define CAPITAL_SIGMA 0x3A3
#define KELVIN_SIGN 0x212A
#define ASKED_BYTES 256 /* fewest that the twin gets, if the text has them: a call takes longer than to find their words */

/* What `WordRules.plan` says. */
struct word_plan {
    const uint8_t *classes; /* of bytes; of the object in `tuple` */
    const uint8_t *ends;    /* which bytes end a run */
    const uint8_t *sep;
    Py_ssize_t sep_size;
    Py_ssize_t n;
    int kind, lower;
    PyObject *find_run; /* borrowed from `tuple` */
    PyObject *tuple;    /* owned */
};

struct bytes_room {
    uint8_t *data;
    size_t room;
};

struct scanner {
    struct word_plan plan;
    PyObject *owner;            /* owned: str or bytes that hold the text; NULL without a text */
    PyObject *encoding, *errors; /* owned */
    PyObject *pending;          /* owned list of words that the twin found; NULL if there are none */
    Py_ssize_t given;           /* number of them that were given */
    const uint8_t *begin, *at, *end;
    int codec;
    int skips_invalid; /* whether bytes that are not of the encoding are between words */
    int is_ascii;      /* whether the text is known to be ASCII */
    int is_over;       /* of SEPARATED: whether the last word was given */
    struct bytes_room scratch;
};

/* A word in UTF-8.  `data` may point into `words`, so a word must not be copied. */
struct word {
    const uint8_t *data; /* valid until the next word is asked for */
    size_t size;
    uint64_t words[2]; /* the bytes and zeros after them, if they fit */
    int is_ascii;
};

/* plan_open -- read a plan; 0, or -1 with an exception. */
static int
plan_open(struct word_plan *plan, PyObject *tuple)
{
    PyObject *tables = NULL, *sep = NULL; /* borrowed from the tuple */

    plan->tuple = NULL;
    if (!PyTuple_CheckExact(tuple)) {
        PyErr_Format(PyExc_TypeError, "these rules have no plan, got %.200s", Py_TYPE(tuple)->tp_name);
        return -1;
    }
    if (!PyArg_ParseTuple(tuple, "SipSnO", &tables, &plan->kind, &plan->lower, &sep, &plan->n, &plan->find_run)) {
        return -1;
    }
    if (PyBytes_GET_SIZE(tables) != 2 * N_BYTES || plan->n < 1 || plan->kind < ASCII_SET || plan->kind > SEPARATED
        || (plan->kind == SEPARATED && PyBytes_GET_SIZE(sep) == 0)) {
        PyErr_SetString(PyExc_ValueError, "this is no plan of WordRules");
        return -1;
    }
    plan->classes = (const uint8_t *)PyBytes_AS_STRING(tables);
    plan->ends = plan->classes + N_BYTES;
    plan->sep = (const uint8_t *)PyBytes_AS_STRING(sep);
    plan->sep_size = PyBytes_GET_SIZE(sep);
    plan->tuple = Py_NewRef(tuple);
    return 0;
}

/* room_for -- make room for bytes; 0, or -1 with MemoryError. */
static int
room_for(struct bytes_room *bytes, size_t size)
{
    if (size <= bytes->room) {
        return 0;
    }
    const size_t room = size < SIZE_MAX / 4 ? size + size / 2 + 64 : size;
    uint8_t *data = PyMem_Realloc(bytes->data, room);
    if (data == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    bytes->data = data;
    bytes->room = room;
    return 0;
}

/* scanner_leave -- forget the text. */
static void
scanner_leave(struct scanner *self)
{
    self->begin = self->at = self->end = NULL;
    self->is_over = 1;
    Py_CLEAR(self->pending);
    Py_CLEAR(self->encoding);
    Py_CLEAR(self->errors);
    Py_CLEAR(self->owner);
}

static void
scanner_close(struct scanner *self)
{
    scanner_leave(self);
    Py_CLEAR(self->plan.tuple);
    PyMem_Free(self->scratch.data);
    self->scratch.data = NULL;
    self->scratch.room = 0;
}

/* scanner_take -- take bytes as the next text. */
static void
scanner_take(struct scanner *self, const char *data, Py_ssize_t size)
{
    self->begin = self->at = (const uint8_t *)data;
    self->end = self->begin + size;
    self->is_over = 0;
    self->given = 0;
}

/* scanner_open_text -- take a str as the next text; 0, or -1 with an exception. */
static int
scanner_open_text(struct scanner *self, PyObject *text)
{
    scanner_leave(self);
    self->is_ascii = PyUnicode_IS_ASCII(text);
    self->codec = CODEC_SURROGATES;
    self->skips_invalid = 0;
    if (self->is_ascii) {
        self->owner = Py_NewRef(text);
        scanner_take(self, (const char *)PyUnicode_1BYTE_DATA(text), PyUnicode_GET_LENGTH(text));
        return 0;
    }
    self->owner = PyUnicode_AsEncodedString(text, "utf-8", "surrogatepass");
    self->encoding = PyUnicode_FromString("utf-8");
    self->errors = PyUnicode_FromString("surrogatepass");
    if (self->owner == NULL || self->encoding == NULL || self->errors == NULL) {
        return -1;
    }
    scanner_take(self, PyBytes_AS_STRING(self->owner), PyBytes_GET_SIZE(self->owner));
    return 0;
}

/* scanner_open_bytes -- take bytes of an encoding as the next text; 0, or -1 with an exception. */
static int
scanner_open_bytes(struct scanner *self, PyObject *data, PyObject *encoding, PyObject *errors)
{
    scanner_leave(self);
    if (PyUnicode_CompareWithASCIIString(encoding, "utf-8") == 0) {
        self->codec = CODEC_UTF8;
    }
    else if (PyUnicode_CompareWithASCIIString(encoding, "ascii") == 0) {
        self->codec = CODEC_ASCII;
    }
    else if (PyUnicode_CompareWithASCIIString(encoding, "iso8859-1") == 0) {
        self->codec = CODEC_LATIN1;
    }
    else {
        PyErr_Format(PyExc_ValueError, "the core reads utf-8, ascii and iso8859-1, got %R", encoding);
        return -1;
    }
    self->skips_invalid = (self->plan.kind == ASCII_SET || self->plan.kind == WORD_SET)
                          && (PyUnicode_CompareWithASCIIString(errors, "replace") == 0
                              || PyUnicode_CompareWithASCIIString(errors, "surrogateescape") == 0);
    self->is_ascii = 0;
    self->owner = Py_NewRef(data);
    self->encoding = Py_NewRef(encoding);
    self->errors = Py_NewRef(errors);
    scanner_take(self, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data));
    return 0;
}

/* judge -- say where a character beyond ASCII belongs: IN_WORD, BETWEEN_WORDS, or ODD if the twin must see it.
 *
 * *size  set to the number of its bytes. */
static int
judge(const struct scanner *self, const uint8_t *p, int *size)
{
    const int kind = self->plan.kind;
    uint32_t code = 0;

    *size = decode_char(self->codec, p, self->end, &code);
    if (*size == 0) {
        *size = 1;
        return self->skips_invalid ? BETWEEN_WORDS : ODD;
    }
    if (self->plan.lower
        && (code == DOTTED_I || (kind == ASCII_SET ? code == KELVIN_SIGN : code == CAPITAL_SIGMA))) {
        return ODD;
    }
    if (kind == ASCII_SET) {
        return BETWEEN_WORDS;
    }
    return (kind == WORD_SET ? Py_UNICODE_ISALNUM(code) : !Py_UNICODE_ISSPACE(code)) ? IN_WORD : BETWEEN_WORDS;
}

/* scan -- find the next word.
 *
 * *from, *to  set to where it is; *is_ascii to whether all its bytes are.
 *
 * Returns FOUND, NO_MORE, or ODD if the twin must find the words of the run around `at`. */
static inline int
scan(struct scanner *self, const uint8_t **from, const uint8_t **to, int *is_ascii)
{
    const uint8_t *const classes = self->plan.classes, *const end = self->end;
    const uint8_t *p = self->at;
    int place = BETWEEN_WORDS, size = 0;

    *is_ascii = 1;
    for (;; p += size) {
        while (p < end && classes[*p] == BETWEEN_WORDS) {
            p++;
        }
        self->at = p;
        if (p == end) {
            return NO_MORE;
        }
        if (classes[*p] == IN_WORD) {
            break;
        }
        place = judge(self, p, &size);
        if (place == ODD) {
            return ODD;
        }
        if (place == IN_WORD) {
            break;
        }
    }
    *from = p;
    for (;; p += size) {
        while (p < end && classes[*p] == IN_WORD) {
            p++;
        }
        if (p == end || classes[*p] == BETWEEN_WORDS) {
            break;
        }
        place = judge(self, p, &size);
        if (place == ODD) {
            return ODD;
        }
        if (place == BETWEEN_WORDS) {
            break;
        }
        *is_ascii = 0;
    }
    self->at = *to = p;
    return FOUND;
}

/* scan_separated -- find what comes before the next separator; FOUND, or NO_MORE after the last. */
static int
scan_separated(struct scanner *self, const uint8_t **from, const uint8_t **to)
{
    const size_t size = (size_t)self->plan.sep_size;
    const uint8_t *p = self->at;

    if (self->is_over) {
        return NO_MORE;
    }
    *from = self->at;
    while ((p = memchr(p, self->plan.sep[0], (size_t)(self->end - p))) != NULL && (size_t)(self->end - p) >= size) {
        if (memcmp(p, self->plan.sep, size) == 0) {
            *to = p;
            self->at = p + size;
            return FOUND;
        }
        p++;
    }
    *to = self->at = self->end;
    self->is_over = 1;
    return FOUND;
}

/* ask_twin -- let the twin find the words of the run around `at`, and of some runs after it; 0 if they are `pending`, -1 with an exception.
 *
 * The words of the run before `at` were given already. */
static int
ask_twin(struct scanner *self)
{
    const uint8_t *const reached = self->at;
    const uint8_t *run = reached, *from = NULL, *to = NULL;
    const uint8_t *end = self->end - reached > ASKED_BYTES ? reached + ASKED_BYTES : self->end;
    PyObject *data = NULL, *words = NULL; /* owned */
    Py_ssize_t given = 0;
    int is_ascii = 0;

    while (run > self->begin && !self->plan.ends[run[-1]]) {
        run--;
    }
    while (end < self->end && !self->plan.ends[*end]) {
        end++;
    }
    const uint8_t *const text_end = self->end;
    self->at = run;
    self->end = reached;
    while (scan(self, &from, &to, &is_ascii) == FOUND) {
        given++;
    }
    self->end = text_end;
    self->at = end;
    data = PyBytes_FromStringAndSize((const char *)run, end - run);
    if (data != NULL) {
        words = PyObject_CallFunctionObjArgs(self->plan.find_run, data, self->encoding, self->errors, NULL);
        Py_DECREF(data);
    }
    if (words != NULL && !PyList_CheckExact(words)) {
        PyErr_SetString(PyExc_TypeError, "find_run() must return a list");
        Py_CLEAR(words);
    }
    if (words == NULL) {
        return -1;
    }
    self->pending = words;
    self->given = given;
    return 0;
}

/* load_inline -- set the two registers of a word of at most INLINE_BYTES.  `end` is where readable bytes end. */
static inline void
load_inline(struct word *word, const uint8_t *p, size_t size, const uint8_t *end)
{
    word->words[0] = word->words[1] = 0;
#if PY_LITTLE_ENDIAN
    if (end - p >= INLINE_BYTES) {
        memcpy(word->words, p, INLINE_BYTES);
        if (size < 8) {
            word->words[0] &= (UINT64_C(1) << 8 * size) - 1;
            word->words[1] = 0;
        }
        else if (size < INLINE_BYTES) {
            word->words[1] &= (UINT64_C(1) << 8 * (size - 8)) - 1;
        }
        return;
    }
#endif
    (void)end;
    memcpy(word->words, p, size);
}

/* rewrite -- write a word as lower-case UTF-8 into the scratch; 0, or -1 with MemoryError. */
static int
rewrite(struct scanner *self, const uint8_t *from, const uint8_t *to, struct word *word)
{
    size_t size = 0;

    while (from < to) {
        uint32_t code = *from;
        if (room_for(&self->scratch, size + MAX_CHAR_BYTES) < 0) {
            return -1;
        }
        if (code < 0x80) {
            self->scratch.data[size++] = self->plan.lower ? lower_ascii(*from) : *from;
            from++;
            continue;
        }
        from += decode_char(self->codec, from, to, &code);
        size += (size_t)encode_char(self->plan.lower ? Py_UNICODE_TOLOWER(code) : code, self->scratch.data + size);
    }
    word->data = self->scratch.data;
    word->size = size;
    return 0;
}

/* inline_short -- set the registers of a word that fits them. */
static inline void
inline_short(struct word *word)
{
    if (word->size <= INLINE_BYTES) {
        load_inline(word, word->data, word->size, word->data + word->size);
    }
}

/* fill_word -- make a word of bytes of the text; 0, or -1 with MemoryError. */
static inline int
fill_word(struct scanner *self, const uint8_t *from, const uint8_t *to, struct word *word)
{
    const size_t size = (size_t)(to - from);

    if (word->is_ascii && size <= INLINE_BYTES) {
        load_inline(word, from, size, self->end);
        if (self->plan.lower) {
            word->words[0] = lower_ascii_8(word->words[0]);
            word->words[1] = lower_ascii_8(word->words[1]);
        }
        word->data = (const uint8_t *)word->words;
        word->size = size;
        return 0;
    }
    if (self->plan.lower || (!word->is_ascii && self->codec == CODEC_LATIN1)) {
        if (rewrite(self, from, to, word) < 0) {
            return -1;
        }
    }
    else {
        word->data = from;
        word->size = size;
    }
    inline_short(word);
    return 0;
}

/* give_pending -- give the next word that the twin found: FOUND, NO_MORE, or -1 with an exception. */
static int
give_pending(struct scanner *self, struct word *word)
{
    PyObject *encoded = NULL; /* owned */

    if (self->given >= PyList_GET_SIZE(self->pending)) {
        Py_CLEAR(self->pending);
        return NO_MORE;
    }
    PyObject *const text = PyList_GET_ITEM(self->pending, self->given); /* borrowed; nobody else has the list */
    if (!PyUnicode_Check(text)) {
        PyErr_SetString(PyExc_TypeError, "find_run() must return a list of str");
        return -1;
    }
    encoded = PyUnicode_AsEncodedString(text, "utf-8", "surrogatepass");
    if (encoded == NULL || room_for(&self->scratch, (size_t)PyBytes_GET_SIZE(encoded)) < 0) {
        Py_XDECREF(encoded);
        return -1;
    }
    self->given++;
    word->size = (size_t)PyBytes_GET_SIZE(encoded);
    word->data = (const uint8_t *)word->words; /* an empty word may have no scratch */
    if (word->size > 0) {
        word->data = memcpy(self->scratch.data, PyBytes_AS_STRING(encoded), word->size);
    }
    word->is_ascii = PyUnicode_IS_ASCII(text);
    inline_short(word);
    Py_DECREF(encoded);
    return FOUND;
}

/* next_word -- find the next word: FOUND, NO_MORE, or -1 with an exception.
 *
 * May run user code, and signal handlers. */
static inline int
next_word(struct scanner *self, struct word *word)
{
    const uint8_t *from = NULL, *to = NULL;
    int found = 0;

    for (;;) {
        if (self->pending != NULL && (found = give_pending(self, word)) != NO_MORE) {
            return found;
        }
        if (self->plan.kind == SEPARATED) {
            found = scan_separated(self, &from, &to);
            word->is_ascii = self->is_ascii;
        }
        else {
            found = scan(self, &from, &to, &word->is_ascii);
        }
        if (found == FOUND) {
            return fill_word(self, from, to, word) < 0 ? -1 : FOUND;
        }
        if (found == NO_MORE || ask_twin(self) < 0) {
            return found == NO_MORE ? NO_MORE : -1;
        }
    }
}

#endif
