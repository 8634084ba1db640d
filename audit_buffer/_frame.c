/*
 * The bytes of one record in a ring, in C: how its payload is stored, and how a reader walks over the records of a lap. The format, and
 * what a reader accepts, are those of audit_buffer/_frame.py, which says why.
 *
 * Guarantees:
 *   - Nothing here makes an entry exist: its header is returned, and stored in Python. Whoever is killed in here has stored nothing.
 *   - No byte outside of the buffer is read or written, whatever the numbers say.
 *   - Bytes of the buffer are read and written with the interpreter's lock, and no Python code runs meanwhile.
 *
 * Assumptions:
 *   - Nobody changes the bytes in front of *stop*, or the payload, meanwhile.
 */

#include "_speedups.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if PY_BIG_ENDIAN || SIZEOF_SIZE_T < 8
#error "a ring file's numbers are little-endian, and its positions have 64 bits; audit_buffer works without this module"
#endif

#define HEADER_BYTES 16
#define ENTRY 0xF0000000u
#define PAD 0xE0000000u
#define LENGTH_LIMIT 0x0FFFFFFFu

typedef struct {
    uint64_t seq;
    uint32_t meta;
    uint32_t checksum;
} Header;

/*
 * CRC-32 as zlib computes it. The interpreter's own takes as long for 200 bytes as for 1,000 and has to be called with objects; its C
 * library would have to be installed. Sliced (Kounavis and Berry, 2008), sixteen bytes at a time.
 */
static uint32_t slices[16][256];

int
fill_slices(PyObject *Py_UNUSED(module))
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
        }
        slices[0][byte] = crc;
    }
    for (int slice = 1; slice < 16; slice++) {
        for (int byte = 0; byte < 256; byte++) {
            uint32_t crc = slices[slice - 1][byte];
            slices[slice][byte] = slices[0][crc & 255] ^ crc >> 8;
        }
    }
    return 0;
}

static inline uint32_t
slice(int last, uint32_t word)
{
    return slices[last + 3][word & 255] ^ slices[last + 2][word >> 8 & 255] ^ slices[last + 1][word >> 16 & 255] ^
           slices[last][word >> 24];
}

static uint32_t
crc32(const unsigned char *bytes, Py_ssize_t size, uint32_t crc)
{
    crc = ~crc;
    for (; size >= 16; bytes += 16, size -= 16) {
        uint32_t words[4];
        memcpy(words, bytes, 16);
        crc = slice(12, words[0] ^ crc) ^ slice(8, words[1]) ^ slice(4, words[2]) ^ slice(0, words[3]);
    }
    for (; size > 0; bytes++, size--) {
        crc = slices[0][(crc ^ *bytes) & 255] ^ crc >> 8;
    }
    return ~crc;
}

static uint32_t
checksum_of(const Header *header, const unsigned char *payload, Py_ssize_t size, uint32_t seed)
{
    return crc32(payload, size, crc32((const unsigned char *)header, offsetof(Header, checksum), seed));
}

static int
has_place(const Py_buffer *mapping, Py_ssize_t at, Py_ssize_t size)
{
    return at >= 0 && at <= mapping->len - HEADER_BYTES - size;
}

/* store_payload(mapping, at, next_at, seq, payload, seed) */
PyObject *
store_payload(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 6) {
        PyErr_SetString(PyExc_TypeError, "store_payload() takes a mapping, two offsets, a seq, a payload and a seed");
        return NULL;
    }
    Py_ssize_t at = PyLong_AsSsize_t(arguments[1]);
    Py_ssize_t next_at = PyLong_AsSsize_t(arguments[2]);
    Header header = {.seq = PyLong_AsUnsignedLongLong(arguments[3])};
    uint32_t seed = (uint32_t)PyLong_AsUnsignedLong(arguments[5]);
    Py_buffer mapping, payload;
    if (PyErr_Occurred() || PyObject_GetBuffer(arguments[4], &payload, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (PyObject_GetBuffer(arguments[0], &mapping, PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&payload);
        return NULL;
    }
    PyObject *stored = NULL;
    if (payload.len > LENGTH_LIMIT || !has_place(&mapping, at, payload.len) || !has_place(&mapping, next_at, 0)) {
        PyErr_Format(PyExc_ValueError, "no record of %zd bytes lies at %zd, in front of %zd", payload.len, at, next_at);
    } else {
        unsigned char *bytes = mapping.buf;
        memset(bytes + next_at, 0, HEADER_BYTES);
        memcpy(bytes + at + HEADER_BYTES, payload.buf, payload.len);
        header.meta = ENTRY + (uint32_t)payload.len;
        header.checksum = checksum_of(&header, payload.buf, payload.len, seed);
        stored = PyBytes_FromStringAndSize((const char *)&header, HEADER_BYTES);
    }
    PyBuffer_Release(&mapping);
    PyBuffer_Release(&payload);
    return stored;
}

/* Append (seq, payload) to *entries*, and (seq, end) to *places*. */
static int
add(PyObject *entries, PyObject *places, const Header *header, const unsigned char *payload, Py_ssize_t size, Py_ssize_t end)
{
    PyObject *seq = PyLong_FromUnsignedLongLong(header->seq);
    PyObject *copy = PyBytes_FromStringAndSize((const char *)payload, size);
    PyObject *position = PyLong_FromSsize_t(end);
    PyObject *entry = NULL, *place = NULL;
    int result = -1;
    if (seq && copy && position) {
        entry = PyTuple_Pack(2, seq, copy);
        place = PyTuple_Pack(2, seq, position);
    }
    if (entry && place && PyList_Append(entries, entry) == 0) {
        result = PyList_Append(places, place);
    }
    Py_XDECREF(place);
    Py_XDECREF(entry);
    Py_XDECREF(position);
    Py_XDECREF(copy);
    Py_XDECREF(seq);
    return result;
}

typedef struct {
    Py_ssize_t shift, end; /* position minus offset; the position at which the lap ends */
    uint32_t seed;
} Lap;

typedef struct {
    Py_ssize_t position, stop, max_entries, max_bytes;
    uint64_t after;
    int is_full;
} Walk;

/* Sums and differences of two such numbers are numbers. */
static int
is_small(Py_ssize_t number)
{
    return number >= -PY_SSIZE_T_MAX / 4 && number <= PY_SSIZE_T_MAX / 4;
}

static int
read_records(Walk *walk, const Lap *lap, const Py_buffer *buffer, PyObject *entries, PyObject *places)
{
    Py_ssize_t at = walk->position - lap->shift;
    Py_ssize_t room = Py_MIN(Py_MIN(walk->stop, lap->end) - walk->position, buffer->len - at);
    while (at >= 0 && room >= HEADER_BYTES) {
        const unsigned char *record = (unsigned char *)buffer->buf + at;
        Header header;
        memcpy(&header, record, HEADER_BYTES);
        Py_ssize_t size = header.meta & LENGTH_LIMIT;
        Py_ssize_t footprint = (size + HEADER_BYTES + 15) & -16;
        int is_entry = header.meta >= ENTRY && header.seq > walk->after;
        int is_pad = (header.meta & ENTRY) == PAD && header.seq == 0 && footprint == lap->end - walk->position;
        if (footprint > room || !(is_entry || is_pad) ||
            checksum_of(&header, record + HEADER_BYTES, is_entry ? size : 0, lap->seed) != header.checksum) {
            return 0;
        }
        if (is_entry) {
            walk->max_bytes -= size;
            walk->is_full = walk->max_bytes < 0 && PyList_GET_SIZE(entries) > 0;
            if (walk->is_full) {
                return 0;
            }
            if (add(entries, places, &header, record + HEADER_BYTES, size, walk->position + footprint) < 0) {
                return -1;
            }
            walk->after = header.seq;
        }
        walk->position += footprint;
        at += footprint;
        room -= footprint;
        walk->is_full = PyList_GET_SIZE(entries) >= walk->max_entries;
        if (walk->is_full) {
            return 0;
        }
    }
    return 0;
}

/* read_lap(buffer, lap, position, after, stop, max_entries, max_bytes, entries, places) */
PyObject *
read_lap(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 9 || !PyTuple_CheckExact(arguments[1]) || PyTuple_GET_SIZE(arguments[1]) != 3 ||
        !PyList_CheckExact(arguments[7]) || !PyList_CheckExact(arguments[8])) {
        PyErr_SetString(PyExc_TypeError, "read_lap() takes a buffer, a lap, five numbers and two lists");
        return NULL;
    }
    Lap lap = {
        .shift = PyLong_AsSsize_t(PyTuple_GET_ITEM(arguments[1], 0)),
        .seed = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(arguments[1], 1)),
        .end = PyLong_AsSsize_t(PyTuple_GET_ITEM(arguments[1], 2)),
    };
    Walk walk = {
        .position = PyLong_AsSsize_t(arguments[2]),
        .after = PyLong_AsUnsignedLongLong(arguments[3]),
        .stop = PyLong_AsSsize_t(arguments[4]),
        .max_entries = PyLong_AsSsize_t(arguments[5]),
        .max_bytes = PyLong_AsSsize_t(arguments[6]),
    };
    if (!PyErr_Occurred() &&
        !(is_small(walk.position) && is_small(walk.stop) && is_small(lap.shift) && is_small(lap.end))) {
        PyErr_Format(PyExc_ValueError, "no ring has a place at %zd", walk.position);
    }
    Py_buffer buffer;
    if (PyErr_Occurred() || PyObject_GetBuffer(arguments[0], &buffer, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    int collects = PyGC_Disable(); /* what is collected could run a finalizer that closes the mapping, or stores into it */
    int result = read_records(&walk, &lap, &buffer, arguments[7], arguments[8]);
    if (collects) {
        PyGC_Enable();
    }
    PyBuffer_Release(&buffer);
    return result < 0 ? NULL : Py_BuildValue("nO", walk.position, walk.is_full ? Py_True : Py_False);
}
