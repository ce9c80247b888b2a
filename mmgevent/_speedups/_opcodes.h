/* Check, without running it, that a pickle can only make plain data.
 *
 * _opcodes.py says what is accepted, and why; this accepts the same and raises the same errors. */

#ifndef MMGEVENT_OPCODES_H
#define MMGEVENT_OPCODES_H

#include <Python.h>
#include <stdint.h>

/* A number that stands for an object; see _opcodes.py. */
#define OPCODE_KIND_SHIFT 60
#define OPCODE_DEPTH_SHIFT 40
#define OPCODE_MAX_DEPTH ((UINT64_C(1) << 20) - 1)
#define OPCODE_WEIGHT ((UINT64_C(1) << OPCODE_DEPTH_SHIFT) - 1)
#define OPCODE_BELOW_KIND ((UINT64_C(1) << OPCODE_KIND_SHIFT) - 1)
#define OPCODE_ONE_DEEP (UINT64_C(1) << OPCODE_DEPTH_SHIFT)
#define OPCODE_LEAF UINT64_C(1)
#define OPCODE_EMPTY (OPCODE_ONE_DEEP + 1)
#define OPCODE_LIST (UINT64_C(1) << OPCODE_KIND_SHIFT)
#define OPCODE_DICT (UINT64_C(2) << OPCODE_KIND_SHIFT)
#define OPCODE_SET (UINT64_C(3) << OPCODE_KIND_SHIFT)
#define OPCODE_GLOBAL (UINT64_C(4) << OPCODE_KIND_SHIFT)
#define OPCODE_MARK (UINT64_C(5) << OPCODE_KIND_SHIFT)
#define OPCODE_MAX_PROTOCOL 5

/* Numbers that stand for objects. */
typedef struct {
    uint64_t *items; /* owned */
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
    uint64_t max_depth;
    uint64_t max_weight;
    uint64_t hashed; /* weight of all keys and elements of sets */
    uint64_t odd;    /* weight of every other object that was removed: of a dict's items, the keys */
    Pile stack;
    Pile memo;
    Pile containers; /* depth and weight of each list, dict and set */
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
pile_push(Pile *pile, uint64_t item)
{
    if (pile->size == pile->room) {
        const size_t room = pile->room == 0 ? 64 : 2 * pile->room;
        uint64_t *items = PyMem_Realloc(pile->items, room * sizeof *items); /* owned */
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
    return pile_push(&m->stack, OPCODE_LEAF);
}

/* join -- the larger depth of two, and both weights together. */
static uint64_t
join(uint64_t one, uint64_t other)
{
    const uint64_t weight = (one & OPCODE_WEIGHT) + (other & OPCODE_WEIGHT);
    const uint64_t depth = one >> OPCODE_DEPTH_SHIFT > other >> OPCODE_DEPTH_SHIFT ? one : other;

    return (depth & ~OPCODE_WEIGHT) | (weight > OPCODE_WEIGHT ? OPCODE_WEIGHT : weight);
}

/* look -- depth and weight of an object.  A list is never hashed, so it weighs 1. */
static uint64_t
look(const Machine *m, uint64_t item)
{
    const uint64_t kind = item & ~OPCODE_BELOW_KIND;

    if (kind == 0) {
        return item;
    }
    item = m->containers.items[item & OPCODE_BELOW_KIND];
    return kind == OPCODE_LIST ? (item & ~OPCODE_WEIGHT) | 1 : item;
}

/* pop_many -- remove objects; *parts is the largest depth among them, and their weight together. */
static int
pop_many(Machine *m, int count, uint64_t *parts)
{
    *parts = m->odd = 0;
    for (int i = 0; i < count; i++) {
        uint64_t part = 0;
        if (m->stack.size == 0 || m->stack.items[m->stack.size - 1] >= OPCODE_GLOBAL) {
            return misuse(m);
        }
        part = look(m, m->stack.items[--m->stack.size]);
        *parts = join(*parts, part);
        m->odd = i % 2 ? join(m->odd, part & OPCODE_WEIGHT) : m->odd;
    }
    return 0;
}

/* pop_to_mark -- remove all objects above the last mark, and the mark. */
static int
pop_to_mark(Machine *m, uint64_t *parts)
{
    *parts = m->odd = 0;
    for (size_t i = 0;; i++) {
        uint64_t part = 0;
        if (m->stack.size == 0 || m->stack.items[m->stack.size - 1] == OPCODE_GLOBAL) {
            return misuse(m);
        }
        part = m->stack.items[--m->stack.size];
        if (part == OPCODE_MARK) {
            return 0;
        }
        part = look(m, part);
        *parts = join(*parts, part);
        m->odd = i % 2 ? join(m->odd, part & OPCODE_WEIGHT) : m->odd;
    }
}

static int
check_depth(const Machine *m, uint64_t parts)
{
    if (parts >> OPCODE_DEPTH_SHIFT >= m->max_depth) {
        PyErr_Format(
            PyExc_ValueError, "objects are nested more than %u deep at byte %zu", (unsigned)m->max_depth,
            m->start);
        return -1;
    }
    return 0;
}

static int
weigh(const Machine *m, uint64_t weight)
{
    if (weight > m->max_weight) {
        PyErr_Format(PyExc_ValueError, "keys would take too long to hash at byte %zu", m->start);
        return -1;
    }
    return 0;
}

/* hash_weight -- count objects that are hashed when the pickle is read. */
static int
hash_weight(Machine *m, uint64_t weight)
{
    m->hashed += weight;
    return weigh(m, m->hashed);
}

/* add -- put objects into the container on top, which must be of this kind. */
static int
add(Machine *m, uint64_t kind, uint64_t parts)
{
    uint64_t *known = NULL;

    if (m->stack.size == 0 || (m->stack.items[m->stack.size - 1] & ~OPCODE_BELOW_KIND) != kind) {
        return misuse(m);
    }
    if (check_depth(m, parts) < 0
        || (kind != OPCODE_LIST && hash_weight(m, kind == OPCODE_DICT ? m->odd : parts & OPCODE_WEIGHT) < 0)) {
        return -1;
    }
    known = &m->containers.items[m->stack.items[m->stack.size - 1] & OPCODE_BELOW_KIND];
    *known = join(*known, parts + OPCODE_ONE_DEEP);
    return 0;
}

/* push_nested -- push an object around others. */
static int
push_nested(Machine *m, uint64_t parts)
{
    if (check_depth(m, parts) < 0 || weigh(m, parts & OPCODE_WEIGHT) < 0) {
        return -1;
    }
    return pile_push(&m->stack, join(parts + OPCODE_ONE_DEEP, 1));
}

static int
push_frozenset(Machine *m, uint64_t parts)
{
    if (push_nested(m, parts) < 0) {
        return -1;
    }
    return hash_weight(m, m->stack.items[m->stack.size - 1] & OPCODE_WEIGHT);
}

static int
push_container(Machine *m, uint64_t kind)
{
    return pile_push(&m->stack, kind | m->containers.size) < 0 ? -1 : pile_push(&m->containers, OPCODE_EMPTY);
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
    uint64_t parts = 0;

    if (pop_many(m, 1, &parts) < 0) {
        return -1;
    }
    if (m->stack.size == 0 || m->stack.items[--m->stack.size] != OPCODE_GLOBAL) {
        return misuse(m);
    }
    return push_nested(m, parts);
}

/* build -- carry out an opcode that pops objects; 1 if it is none of them. */
static int
build(Machine *m)
{
    uint64_t parts = 0;

    switch (m->op) {
    case 0x85: /* TUPLE1 to TUPLE3 */
    case 0x86:
    case 0x87:
        return pop_many(m, (int)m->op - 0x84, &parts) < 0 ? -1 : push_nested(m, parts);
    case 't':
        return pop_to_mark(m, &parts) < 0 ? -1 : push_nested(m, parts);
    case 0x91: /* FROZENSET */
        return pop_to_mark(m, &parts) < 0 ? -1 : push_frozenset(m, parts);
    case 'e':
        return pop_to_mark(m, &parts) < 0 ? -1 : add(m, OPCODE_LIST, parts);
    case 'u':
        return pop_to_mark(m, &parts) < 0 ? -1 : add(m, OPCODE_DICT, parts);
    case 0x90: /* ADDITEMS */
        return pop_to_mark(m, &parts) < 0 ? -1 : add(m, OPCODE_SET, parts);
    case 'a':
        return pop_many(m, 1, &parts) < 0 ? -1 : add(m, OPCODE_LIST, parts);
    case 's':
        return pop_many(m, 2, &parts) < 0 ? -1 : add(m, OPCODE_DICT, parts);
    case 0x93: /* STACK_GLOBAL */
        return pop_many(m, 2, &parts) < 0 ? -1 : pile_push(&m->stack, OPCODE_GLOBAL);
    case 'R':
        return reduce(m);
    case '0':
        return pop_many(m, 1, &parts);
    case '1':
        return pop_to_mark(m, &parts);
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
        return pile_push(&m->stack, OPCODE_LEAF);
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
        return pile_push(&m->stack, OPCODE_EMPTY);
    case ']':
        return push_container(m, OPCODE_LIST);
    case '}':
        return push_container(m, OPCODE_DICT);
    case 0x8f: /* EMPTY_SET */
        return push_container(m, OPCODE_SET);
    case 0x80: /* PROTO */
        if (argument(m, 1, &number) < 0) {
            return -1;
        }
        return number > OPCODE_MAX_PROTOCOL ? misuse(m) : 0;
    case 0x95: /* FRAME */
        if (argument(m, 8, &number) < 0) {
            return -1;
        }
        return number > m->length - m->at ? misuse(m) : 0;
    default:
        return 1;
    }
}

/* play -- carry out all opcodes; -1 with ValueError for one that plain data does not have.  *made is
 * the weight of the object that they make. */
static int
play(Machine *m, uint64_t *made)
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
            const uint64_t top = m->stack.size == 0 ? OPCODE_MARK : m->stack.items[m->stack.size - 1];
            if (pop_many(m, 1, made) < 0) {
                return -1;
            }
            if (m->stack.size != 0 || m->at != m->length) {
                return misuse(m);
            }
            if ((top & ~OPCODE_BELOW_KIND) == OPCODE_LIST) {
                *made = m->containers.items[top & OPCODE_BELOW_KIND];
            }
            *made &= OPCODE_WEIGHT;
            return 0;
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

/* check_pickle -- check_pickle(data, max_depth, max_weight); see _opcodes.check_pickle.  It runs no
 * user code. */
static PyObject *
core_check_pickle(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer view = {0};
    Machine machine = {0};
    long long max_depth = 0;
    long long max_weight = 0;
    uint64_t made = 0;
    int result = -1;

    (void)module;
    if (count != 3) {
        PyErr_Format(PyExc_TypeError, "check_pickle() takes 3 arguments, got %zd", count);
        return NULL;
    }
    max_depth = PyLong_AsLongLong(args[1]);
    if (max_depth == -1 && PyErr_Occurred()) {
        return NULL;
    }
    max_weight = PyLong_AsLongLong(args[2]);
    if (max_weight == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (max_depth < 0 || (uint64_t)max_depth >= OPCODE_MAX_DEPTH || max_weight < 0
        || (uint64_t)max_weight >= OPCODE_WEIGHT) {
        PyErr_Format(PyExc_ValueError, "a limit is out of range: %lld or %lld", max_depth, max_weight);
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    machine.data = view.buf;
    machine.length = (size_t)view.len;
    machine.max_depth = (uint64_t)max_depth;
    machine.max_weight = (uint64_t)max_weight;
    result = play(&machine, &made);
    PyMem_Free(machine.stack.items);
    PyMem_Free(machine.memo.items);
    PyMem_Free(machine.containers.items);
    PyBuffer_Release(&view);
    return result < 0 ? NULL : PyLong_FromUnsignedLongLong(made);
}

#endif
