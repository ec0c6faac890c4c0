/* tensorboard.c: written by hand, after
 *   TFRecord (tensorflow/core/lib/io/record_writer.h): u64 length, u32 masked CRC-32C of these 8 bytes, the
 *     data, u32 masked CRC-32C of the data; masked: rotated right by 15 bits, plus 0xa282ead8;
 *   Event (tensorflow/core/util/event.proto): 1 wall_time double, 2 step int64, 3 file_version string,
 *     5 summary, 7 session_log { 1 status: START = 1 };
 *   Summary (tensorflow/core/framework/summary.proto): 1 value { 1 tag string, 2 simple_value float }. */
#include "train/tensorboard.h"

#include "train/crc32c.h"

#include <string.h>

typedef enum wire { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 } wire; /* protobuf's wire types */

typedef struct message {
    uint8_t data[NW_EVENT_MOST];
    size_t size;
} message;

static void put(message *m, const void *data, size_t size) {
    if (size > sizeof m->data - m->size) size = sizeof m->data - m->size; /* callers stay below */
    memcpy(m->data + m->size, data, size);
    m->size += size;
}

static void put_varint(message *m, uint64_t x) {
    do {
        uint8_t byte = (uint8_t)((x & 0x7f) | (x > 0x7f ? 0x80 : 0));
        put(m, &byte, 1);
        x >>= 7;
    } while (x);
}

static void put_key(message *m, unsigned field, wire type) {
    put_varint(m, field << 3 | (unsigned)type);
}

static void put_bytes(message *m, unsigned field, const void *data, size_t size) {
    put_key(m, field, BYTES);
    put_varint(m, size);
    put(m, data, size);
}

static void put_number(message *m, unsigned field, uint64_t x) {
    put_key(m, field, VARINT);
    put_varint(m, x);
}

static message event_at(double time) {
    message m = {.size = 0};
    put_key(&m, 1, FIXED64);
    put(&m, &time, sizeof time);
    return m;
}

static uint32_t masked(const void *data, size_t size) {
    uint32_t crc = nw_crc32c(0, data, size);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static size_t frame(const message *m, uint8_t *buffer) {
    uint64_t length = m->size;
    uint32_t crc;
    memcpy(buffer, &length, 8);
    crc = masked(buffer, 8);
    memcpy(buffer + 8, &crc, 4);
    memcpy(buffer + 12, m->data, m->size);
    crc = masked(m->data, m->size);
    memcpy(buffer + 12 + m->size, &crc, 4);
    return m->size + 16;
}

size_t nw_event_version(double time, uint8_t *buffer) {
    static const char version[] = "brain.Event:2";
    message m = event_at(time);
    put_bytes(&m, 3, version, strlen(version));
    return frame(&m, buffer);
}

size_t nw_event_restart(double time, uint64_t step, uint8_t *buffer) {
    message m = event_at(time), log = {.size = 0};
    put_number(&m, 2, step);
    put_number(&log, 1, 1);
    put_bytes(&m, 7, log.data, log.size);
    return frame(&m, buffer);
}

size_t nw_event_scalar(double time, uint64_t step, const char *tag, float value, uint8_t *buffer) {
    message m = event_at(time), summary = {.size = 0}, item = {.size = 0};
    size_t length = strlen(tag), most = NW_EVENT_MOST - 128;
    put_bytes(&item, 1, tag, length < most ? length : most);
    put_key(&item, 2, FIXED32);
    put(&item, &value, sizeof value);
    put_bytes(&summary, 1, item.data, item.size);
    put_number(&m, 2, step);
    put_bytes(&m, 5, summary.data, summary.size);
    return frame(&m, buffer);
}
