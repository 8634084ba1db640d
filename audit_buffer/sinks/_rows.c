/*
 * Rows of audit_log from the entries of a batch, in C; the twin of make_rows_in_python() in audit_buffer/sinks/_rows.py.
 *
 * Of an entry, a JSON array, msgspec takes apart what stands in front of the details; they go into the row as the text they are. They are
 * not taken apart again, because the ring's checksum says that they are what the encoder wrote.
 *
 * Guarantees:
 *   - No byte outside of an entry is read, whatever is in it. What is no entry is msgspec's error
 *     or a ValueError, and what is no time an OverflowError.
 */

#include "../_speedups.h"

#include <string.h>

/* What stands in front of the details: two times, in microseconds, and five texts. */
#define HEAD_FIELDS 7
#define OCCURRED 1
/* A time as text: 2026-11-24 12:00:00.123456. Up to its fraction it is the same for all entries of a second. */
#define TIME_LENGTH 26
#define UP_TO_FRACTION 20
#define MICROSECONDS 1000000

typedef struct {
    PyObject *as_text; /* makes a time's text */
    long long start;
    int is_known;
    char text[UP_TO_FRACTION];
} Second;

/* Return where the details start, or NULL. Between the fields the encoder writes a comma, and no blanks. */
static const char *
details_in(const char *entry, Py_ssize_t size)
{
    if (size < 2 || entry[0] != '[' || entry[size - 1] != ']') {
        return NULL;
    }
    const char *at = entry + 1, *end = entry + size - 1;
    for (int field = 0; field < HEAD_FIELDS; field++) {
        if (*at == '"') {
            for (at++; at < end && *at != '"'; at++) {
                at += *at == '\\';
            }
        }
        at = at < end ? memchr(at, ',', end - at) : NULL;
        if (at == NULL) {
            return NULL;
        }
        at++;
    }
    return at < end ? at : NULL;
}

/* Say what is wrong with an entry without details. */
static void
refuse(PyObject *decode, PyObject *stored)
{
    PyObject *head = PyObject_CallOneArg(decode, PyTuple_GET_ITEM(stored, 1));
    if (head != NULL) {
        Py_DECREF(head);
        PyErr_Format(PyExc_ValueError, "entry %R is no array of eight", PyTuple_GET_ITEM(stored, 0));
    }
}

/* Return the fields in front of the details, a tuple. */
static PyObject *
head_of(PyObject *decode, const char *entry, const char *details)
{
    PyObject *bytes = PyBytes_FromStringAndSize(entry, details - entry);
    if (bytes == NULL) {
        return NULL;
    }
    PyBytes_AS_STRING(bytes)[details - entry - 1] = ']'; /* in the place of the comma */
    PyObject *head = PyObject_CallOneArg(decode, bytes);
    Py_DECREF(bytes);
    if (head != NULL && (!PyTuple_CheckExact(head) || PyTuple_GET_SIZE(head) != HEAD_FIELDS)) {
        PyErr_SetString(PyExc_TypeError, "decode() returns no tuple of seven");
        Py_CLEAR(head);
    }
    return head;
}

static int
turn_second(Second *second, long long micros)
{
    if (micros < -(1LL << 62) || micros > 1LL << 62) {
        PyErr_SetString(PyExc_OverflowError, "no calendar has such a time");
        return -1;
    }
    long long start = micros - (micros % MICROSECONDS + MICROSECONDS) % MICROSECONDS;
    PyObject *text = PyObject_CallFunction(second->as_text, "L", start);
    Py_ssize_t length;
    const char *characters = text ? PyUnicode_AsUTF8AndSize(text, &length) : NULL;
    int result = -1;
    if (characters != NULL && length != TIME_LENGTH) {
        PyErr_Format(PyExc_ValueError, "%R is no time with microseconds", text);
    } else if (characters != NULL) {
        memcpy(second->text, characters, UP_TO_FRACTION);
        second->start = start;
        second->is_known = 1;
        result = 0;
    }
    Py_XDECREF(text);
    return result;
}

static PyObject *
time_text(Second *second, PyObject *recorded)
{
    long long micros = PyLong_AsLongLong(recorded);
    if (micros == -1 && PyErr_Occurred()) {
        return NULL;
    }
    /* As unsigned: whatever lies before the second is far behind it then, and no difference is too large. */
    unsigned long long since = (unsigned long long)micros - (unsigned long long)second->start;
    if ((!second->is_known || since >= MICROSECONDS) && turn_second(second, micros) < 0) {
        return NULL;
    }
    PyObject *text = PyUnicode_New(TIME_LENGTH, 127);
    if (text != NULL) {
        char *characters = (char *)PyUnicode_1BYTE_DATA(text);
        memcpy(characters, second->text, UP_TO_FRACTION);
        int fraction = (int)(micros - second->start);
        for (int place = TIME_LENGTH; place-- > UP_TO_FRACTION; fraction /= 10) {
            characters[place] = (char)('0' + fraction % 10);
        }
    }
    return text;
}

static PyObject *
details_text(const char *details, Py_ssize_t size)
{
    if (size == 4 && memcmp(details, "null", 4) == 0) {
        return Py_NewRef(Py_None);
    }
    /* The encoder escapes control characters, and the lines of a COPY are made of texts that have none. */
    int has_control = 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        has_control |= (unsigned char)details[i] < 0x20;
    }
    if (has_control) {
        PyErr_SetString(PyExc_ValueError, "a control character in the details");
        return NULL;
    }
    return PyUnicode_DecodeUTF8(details, size, NULL);
}

static PyObject *
make_row(PyObject *identity, PyObject *stored, PyObject *decode, Second *second)
{
    if (!PyTuple_CheckExact(stored) || PyTuple_GET_SIZE(stored) != 2 || !PyBytes_CheckExact(PyTuple_GET_ITEM(stored, 1))) {
        PyErr_SetString(PyExc_TypeError, "an entry is a tuple of its seq and bytes");
        return NULL;
    }
    const char *entry = PyBytes_AS_STRING(PyTuple_GET_ITEM(stored, 1));
    Py_ssize_t size = PyBytes_GET_SIZE(PyTuple_GET_ITEM(stored, 1));
    const char *details = details_in(entry, size);
    if (details == NULL) {
        refuse(decode, stored);
        return NULL;
    }
    PyObject *head = head_of(decode, entry, details);
    PyObject *recorded = head ? time_text(second, PyTuple_GET_ITEM(head, 0)) : NULL;
    PyObject *occurred = NULL, *text = NULL, *row = NULL;
    if (recorded != NULL) {
        PyObject *micros = PyTuple_GET_ITEM(head, OCCURRED);
        occurred = micros == Py_None ? Py_NewRef(recorded) : PyObject_CallOneArg(second->as_text, micros);
    }
    if (occurred != NULL) {
        text = details_text(details, entry + size - 1 - details);
    }
    if (text != NULL) {
        row = PyTuple_New(3 + HEAD_FIELDS); /* last: while Python runs, the collector must not meet it half made */
    }
    if (row == NULL) {
        Py_XDECREF(recorded);
        Py_XDECREF(occurred);
        Py_XDECREF(text);
    } else {
        PyTuple_SET_ITEM(row, 0, Py_NewRef(identity));
        PyTuple_SET_ITEM(row, 1, Py_NewRef(PyTuple_GET_ITEM(stored, 0)));
        PyTuple_SET_ITEM(row, 2, recorded);
        PyTuple_SET_ITEM(row, 3, occurred);
        for (int field = OCCURRED + 1; field < HEAD_FIELDS; field++) {
            PyTuple_SET_ITEM(row, 2 + field, Py_NewRef(PyTuple_GET_ITEM(head, field)));
        }
        PyTuple_SET_ITEM(row, 2 + HEAD_FIELDS, text);
    }
    Py_XDECREF(head);
    return row;
}

/* make_rows(identity, stored, decode_head, as_text) */
PyObject *
make_rows(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "make_rows() takes an id, entries, what decodes them, and what makes a time's text");
        return NULL;
    }
    /* A copy: what decodes could change a list. */
    PyObject *stored = PySequence_Tuple(arguments[1]);
    PyObject *rows = stored ? PyList_New(0) : NULL;
    Second second = {.as_text = arguments[3], .is_known = 0};
    for (Py_ssize_t i = 0; rows != NULL && i < PyTuple_GET_SIZE(stored); i++) {
        PyObject *row = make_row(arguments[0], PyTuple_GET_ITEM(stored, i), arguments[2], &second);
        if (row == NULL || PyList_Append(rows, row) < 0) {
            Py_CLEAR(rows);
        }
        Py_XDECREF(row);
    }
    Py_XDECREF(stored);
    return rows;
}
