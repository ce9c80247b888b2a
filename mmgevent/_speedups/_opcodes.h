/* Check, without running it, that a pickle can only make plain data.
 *
 * _opcodes.py says what is accepted, and why; this accepts the same and raises the same errors. */

#ifndef MMGEVENT_OPCODES_H
#define MMGEVENT_OPCODES_H

#include <Python.h>
#include <stdint.h>

#define OPCODE_KIND_SHIFT 24
#define OPCODE_DEPTH ((UINT32_C(1) << OPCODE_KIND_SHIFT) - 1)
#define OPCODE_LIST (UINT32_C(1) << OPCODE_KIND_SHIFT)
#define OPCODE_DICT (UINT32_C(2) << OPCODE_KIND_SHIFT)
#define OPCODE_SET (UINT32_C(3) << OPCODE_KIND_SHIFT)
#define OPCODE_GLOBAL (UINT32_C(4) << OPCODE_KIND_SHIFT)
#define OPCODE_MARK (UINT32_C(5) << OPCODE_KIND_SHIFT)
#define OPCODE_MAX_PROTOCOL 5

/* Numbers that stand for objects. */
typedef struct {
    uint32_t *items; /* owned */
    size_t size;
    size_t room;
} Pile;

/* The state of the machine. */
typedef struct {
    const unsigned char *data;
    size_t length;
    size_t at;    /* of the next byte */
    size_t start; /* of the opcode */
    unsigned op;
    uint32_t max_depth;
    Pile stack;
    Pile memo;
} Machine;

/* misuse -- raise ValueError for the current opcode; -1. */
static int
misuse(const Machine *m)
{
    PyErr_Format(
        PyExc_ValueError, "opcode 0x%02x at byte %zu is used as plain data does not use it", m->op, m->start);
    return -1;
}

static int
pile_push(Pile *pile, uint32_t item)
{
    if (pile->size == pile->room) {
        const size_t room = pile->room == 0 ? 64 : 2 * pile->room;
        uint32_t *items = PyMem_Realloc(pile->items, room * sizeof *items); /* owned */
        if (items == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        pile->items = items;
        pile->room = room;
    }
    pile->items[pile->size++] = item;
    return 0;
}

/* skip -- pass over bytes; -1 with ValueError if there are fewer. */
static int
skip(Machine *m, uint64_t size)
{
    if (size > m->length - m->at) {
        PyErr_Format(PyExc_ValueError, "a pickle is cut short at byte %zu", m->at);
        return -1;
    }
    m->at += (size_t)size;
    return 0;
}

/* argument -- read a little-endian number of `size` bytes. */
static int
argument(Machine *m, size_t size, uint64_t *number)
{
    const size_t at = m->at;

    if (skip(m, size) < 0) {
        return -1;
    }
    *number = 0;
    for (size_t i = 0; i < size; i++) {
        *number |= (uint64_t)m->data[at + i] << (8 * i);
    }
    return 0;
}

/* push_leaf -- push an object without parts: an argument of `size` bytes, or of as many as that says. */
static int
push_leaf(Machine *m, size_t size, int is_length)
{
    uint64_t number = 0;

    if (argument(m, size, &number) < 0 || (is_length && skip(m, number) < 0)) {
        return -1;
    }
    return pile_push(&m->stack, 0);
}

/* pop_many -- remove objects and set *depth to the largest depth among them. */
static int
pop_many(Machine *m, int count, uint32_t *depth)
{
    *depth = 0;
    for (int i = 0; i < count; i++) {
        if (m->stack.size == 0 || m->stack.items[m->stack.size - 1] >= OPCODE_GLOBAL) {
            return misuse(m);
        }
        const uint32_t inner = m->stack.items[--m->stack.size] & OPCODE_DEPTH;
        *depth = inner > *depth ? inner : *depth;
    }
    return 0;
}

/* pop_to_mark -- remove all objects above the last mark, and the mark. */
static int
pop_to_mark(Machine *m, uint32_t *depth)
{
    *depth = 0;
    for (;;) {
        if (m->stack.size == 0 || m->stack.items[m->stack.size - 1] == OPCODE_GLOBAL) {
            return misuse(m);
        }
        const uint32_t top = m->stack.items[--m->stack.size];
        if (top == OPCODE_MARK) {
            return 0;
        }
        *depth = (top & OPCODE_DEPTH) > *depth ? (top & OPCODE_DEPTH) : *depth;
    }
}

/* nest -- turn the depth of parts into that of the object around them. */
static int
nest(const Machine *m, uint32_t *depth)
{
    if (*depth >= m->max_depth) {
        PyErr_Format(
            PyExc_ValueError, "objects are nested more than %u deep at byte %zu", (unsigned)m->max_depth,
            m->start);
        return -1;
    }
    *depth += 1;
    return 0;
}

/* add -- put objects of this depth into the container on top, which must be of this kind. */
static int
add(Machine *m, uint32_t kind, uint32_t inner)
{
    uint32_t *top = NULL;

    if (m->stack.size == 0
        || m->stack.items[m->stack.size - 1] >> OPCODE_KIND_SHIFT != kind >> OPCODE_KIND_SHIFT) {
        return misuse(m);
    }
    top = &m->stack.items[m->stack.size - 1];
    if (nest(m, &inner) < 0) {
        return -1;
    }
    *top = kind | (inner > (*top & OPCODE_DEPTH) ? inner : *top & OPCODE_DEPTH);
    return 0;
}

static int
push_nested(Machine *m, uint32_t inner)
{
    return nest(m, &inner) < 0 ? -1 : pile_push(&m->stack, inner);
}

/* get -- push an object of the memo again. */
static int
get(Machine *m, size_t size)
{
    uint64_t index = 0;

    if (argument(m, size, &index) < 0) {
        return -1;
    }
    return index >= m->memo.size ? misuse(m) : pile_push(&m->stack, m->memo.items[index]);
}

static int
memoize(Machine *m)
{
    if (m->stack.size == 0 || m->stack.items[m->stack.size - 1] == OPCODE_MARK) {
        return misuse(m);
    }
    return pile_push(&m->memo, m->stack.items[m->stack.size - 1]);
}

static int
reduce(Machine *m)
{
    uint32_t inner = 0;

    if (pop_many(m, 1, &inner) < 0) {
        return -1;
    }
    if (m->stack.size == 0 || m->stack.items[--m->stack.size] != OPCODE_GLOBAL) {
        return misuse(m);
    }
    return push_nested(m, inner);
}

/* build -- carry out an opcode that pops objects; 1 if it is none of them. */
static int
build(Machine *m)
{
    uint32_t inner = 0;

    switch (m->op) {
    case 0x85: /* TUPLE1 to TUPLE3 */
    case 0x86:
    case 0x87:
        return pop_many(m, (int)m->op - 0x84, &inner) < 0 ? -1 : push_nested(m, inner);
    case 't':
    case 0x91: /* FROZENSET */
        return pop_to_mark(m, &inner) < 0 ? -1 : push_nested(m, inner);
    case 'e':
        return pop_to_mark(m, &inner) < 0 ? -1 : add(m, OPCODE_LIST, inner);
    case 'u':
        return pop_to_mark(m, &inner) < 0 ? -1 : add(m, OPCODE_DICT, inner);
    case 0x90: /* ADDITEMS */
        return pop_to_mark(m, &inner) < 0 ? -1 : add(m, OPCODE_SET, inner);
    case 'a':
        return pop_many(m, 1, &inner) < 0 ? -1 : add(m, OPCODE_LIST, inner);
    case 's':
        return pop_many(m, 2, &inner) < 0 ? -1 : add(m, OPCODE_DICT, inner);
    case 0x93: /* STACK_GLOBAL */
        return pop_many(m, 2, &inner) < 0 ? -1 : pile_push(&m->stack, OPCODE_GLOBAL);
    case 'R':
        return reduce(m);
    case '0':
        return pop_many(m, 1, &inner);
    case '1':
        return pop_to_mark(m, &inner);
    default:
        return 1;
    }
}

/* push -- carry out an opcode that pops nothing; 1 if it is none of them. */
static int
push(Machine *m)
{
    uint64_t number = 0;

    switch (m->op) {
    case 'N':
    case 0x88: /* NEWTRUE, NEWFALSE */
    case 0x89:
        return pile_push(&m->stack, 0);
    case 'K':
        return push_leaf(m, 1, 0);
    case 'M':
        return push_leaf(m, 2, 0);
    case 'J':
        return push_leaf(m, 4, 0);
    case 'G':
        return push_leaf(m, 8, 0);
    case 0x8a: /* LONG1, SHORT_BINUNICODE */
    case 0x8c:
    case 'C':
        return push_leaf(m, 1, 1);
    case 0x8b: /* LONG4 */
    case 'X':
    case 'B':
        return push_leaf(m, 4, 1);
    case 0x8d: /* BINUNICODE8, BINBYTES8, BYTEARRAY8 */
    case 0x8e:
    case 0x96:
        return push_leaf(m, 8, 1);
    case 0x94: /* MEMOIZE */
        return memoize(m);
    case 'h':
        return get(m, 1);
    case 'j':
        return get(m, 4);
    case '(':
        return pile_push(&m->stack, OPCODE_MARK);
    case ')':
        return pile_push(&m->stack, 1);
    case ']':
        return pile_push(&m->stack, OPCODE_LIST | 1);
    case '}':
        return pile_push(&m->stack, OPCODE_DICT | 1);
    case 0x8f: /* EMPTY_SET */
        return pile_push(&m->stack, OPCODE_SET | 1);
    case 0x80: /* PROTO */
        if (argument(m, 1, &number) < 0) {
            return -1;
        }
        return number > OPCODE_MAX_PROTOCOL ? misuse(m) : 0;
    case 0x95: /* FRAME */
        return argument(m, 8, &number);
    default:
        return 1;
    }
}

/* play -- carry out all opcodes; -1 with ValueError for one that plain data does not have. */
static int
play(Machine *m)
{
    for (;;) {
        uint64_t op = 0;
        int result = 0;

        m->start = m->at;
        if (argument(m, 1, &op) < 0) {
            return -1;
        }
        m->op = (unsigned)op;
        if (op == '.') {
            uint32_t depth = 0;
            if (pop_many(m, 1, &depth) < 0) {
                return -1;
            }
            return m->stack.size != 0 || m->at != m->length ? misuse(m) : 0;
        }
        result = push(m);
        if (result > 0) {
            result = build(m);
        }
        if (result > 0) {
            PyErr_Format(
                PyExc_ValueError, "opcode 0x%02x at byte %zu is not one of plain data", m->op, m->start);
        }
        if (result != 0) {
            return -1;
        }
    }
}

/* check_pickle -- check_pickle(data, max_depth); see _opcodes.check_pickle.  It runs no user code. */
static PyObject *
core_check_pickle(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer view = {0};
    Machine machine = {0};
    long max_depth = 0;
    int result = -1;

    (void)module;
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "check_pickle() takes 2 arguments, got %zd", count);
        return NULL;
    }
    max_depth = PyLong_AsLong(args[1]);
    if (max_depth == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (max_depth < 0 || (unsigned long)max_depth >= OPCODE_DEPTH) {
        PyErr_Format(PyExc_ValueError, "max_depth is out of range: %ld", max_depth);
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    machine.data = view.buf;
    machine.length = (size_t)view.len;
    machine.max_depth = (uint32_t)max_depth;
    result = play(&machine);
    PyMem_Free(machine.stack.items);
    PyMem_Free(machine.memo.items);
    PyBuffer_Release(&view);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

#endif
