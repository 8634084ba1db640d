/*
 * The quick looks of audit_buffer/_usual.py, in C: is a value plain JSON, and is an entry of the usual kind, which needs no closer look?
 *
 * Guarantees:
 *   - The answer is yes only where the JSON or MessagePack that msgspec writes of a value comes back equal and of the same types, and every
 *     text of an entry fits its column; or where msgspec refuses to write it (half a surrogate pair). The two times of an entry are
 *     the caller's own and are not looked at.
 *   - A look runs no Python code, makes no object, changes none and keeps no reference. It ends after so many levels and parts.
 *   - Between the look at an entry and its encoding nobody else has the interpreter's lock.
 *
 * Assumptions:
 *   - There is such a lock: whoever calls has it, and nobody changes a dict or a list meanwhile. Where Python has none this is not
 *     built, and msgspec takes the look, as it does where there is no compiler.
 */

#include "_speedups.h"

#include <math.h>

/* Levels of dicts and lists that an entry's details usually have at most, and that the C stack has room for in any case. */
#define USUAL_LEVELS 64
#define MOST_LEVELS 500
/* Keys and values that are looked at. A list may contain another one many times, and be endless for all that a look can tell. */
#define MOST_PARTS (1 << 20)

/* The row: two times, these five texts, and the details, in the order of the format (audit_buffer/_codec.py). */
#define FIRST_TEXT 2
#define TEXTS 5
#define DETAILS (FIRST_TEXT + TEXTS)
static const char *const TEXT_NAMES[TEXTS] = {"event_type", "actor", "resource", "outcome", "correlation_id"};
static const int IS_OPTIONAL[TEXTS] = {0, 1, 1, 0, 1};
/* In characters; filled from _facts.MAX_LENGTHS, once, when the module is imported. */
static Py_ssize_t max_lengths[TEXTS];

static int
is_text(PyObject *value, Py_ssize_t max_length)
{
    if (!PyUnicode_CheckExact(value)) {
        return 0;
    }
    Py_ssize_t length = PyUnicode_GET_LENGTH(value);
    if (length > max_length) {
        return 0;
    }
    Py_ssize_t nul = PyUnicode_FindChar(value, 0, 0, length, 1);
    if (nul < -1) {
        PyErr_Clear(); /* the closer look will meet it again */
    }
    return nul == -1;
}

static int
is_int64(PyObject *value)
{
    int overflow;
    PyLong_AsLongLongAndOverflow(value, &overflow);
    return !overflow;
}

/* Exact types only: what a class of its own means by itself is for the closer look to find out. */
static int
is_plain_json(PyObject *value, int levels, int *parts)
{
    if (--*parts < 0) {
        return 0;
    }
    if (value == Py_None || PyUnicode_CheckExact(value) || PyBool_Check(value)) {
        return 1;
    }
    if (PyLong_CheckExact(value)) {
        return is_int64(value);
    }
    if (PyFloat_CheckExact(value)) {
        return isfinite(PyFloat_AS_DOUBLE(value));
    }
    if (levels <= 0) {
        return 0;
    }
    if (PyDict_CheckExact(value)) {
        PyObject *key, *item;
        Py_ssize_t position = 0;
        while (PyDict_Next(value, &position, &key, &item)) {
            if (!PyUnicode_CheckExact(key) || !is_plain_json(item, levels - 1, parts)) {
                return 0;
            }
        }
        return 1;
    }
    if (PyList_CheckExact(value)) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value); i++) {
            if (!is_plain_json(PyList_GET_ITEM(value, i), levels - 1, parts)) {
                return 0;
            }
        }
        return 1;
    }
    return 0;
}

PyObject *
is_json(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "is_json() takes a value and a number of levels");
        return NULL;
    }
    long levels = PyLong_AsLong(arguments[1]);
    if (levels == -1 && PyErr_Occurred()) {
        return NULL;
    }
    int parts = MOST_PARTS;
    return PyBool_FromLong(is_plain_json(arguments[0], (int)Py_MIN(levels, MOST_LEVELS), &parts));
}

static int
is_usual(PyObject *row)
{
    if (!PyTuple_CheckExact(row) || PyTuple_GET_SIZE(row) != DETAILS + 1) {
        return 0;
    }
    for (int i = 0; i < TEXTS; i++) {
        PyObject *text = PyTuple_GET_ITEM(row, FIRST_TEXT + i);
        if (!(IS_OPTIONAL[i] && text == Py_None) && !is_text(text, max_lengths[i])) {
            return 0;
        }
    }
    if (PyUnicode_GET_LENGTH(PyTuple_GET_ITEM(row, FIRST_TEXT)) == 0) {
        return 0; /* an event_type says something */
    }
    PyObject *details = PyTuple_GET_ITEM(row, DETAILS);
    int parts = MOST_PARTS;
    return details == Py_None || (PyDict_CheckExact(details) && is_plain_json(details, USUAL_LEVELS, &parts));
}

PyObject *
encode_usual(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "encode_usual() takes a row, a buffer, and what encodes into it");
        return NULL;
    }
    if (!is_usual(arguments[0])) {
        Py_RETURN_FALSE;
    }
    PyObject *nothing = PyObject_Vectorcall(arguments[2], arguments, 2, NULL);
    if (nothing == NULL) {
        return NULL;
    }
    Py_DECREF(nothing);
    Py_RETURN_TRUE;
}

int
read_max_lengths(PyObject *Py_UNUSED(module))
{
    PyObject *facts = PyImport_ImportModule("audit_buffer._facts");
    PyObject *lengths = facts ? PyObject_GetAttrString(facts, "MAX_LENGTHS") : NULL;
    for (int i = 0; lengths && i < TEXTS; i++) {
        PyObject *length = PyMapping_GetItemString(lengths, TEXT_NAMES[i]);
        max_lengths[i] = length ? PyLong_AsSsize_t(length) : -1;
        Py_XDECREF(length);
        if (max_lengths[i] < 0) {
            break;
        }
    }
    Py_XDECREF(lengths);
    Py_XDECREF(facts);
    return PyErr_Occurred() ? -1 : 0;
}
