/* Positions sorted by falling values, equal ones in the order of the positions: a value and its position are one
   integer, so that sorting integers settles both. */

#ifndef OBJECTNESS_RADIX_H
#define OBJECTNESS_RADIX_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    DIGITS = 256,    /* values that one digit can have */
    VALUE_DIGIT = 4, /* digits of a key from here on are its value's, those before its position's */
};

/* An integer that grows as the value falls and, among equal values, as the position grows. `value` is a number. */
static inline uint64_t make_key(float value, int64_t position)
{
    const float plain = value + 0.0f; /* -0 is 0 */
    uint32_t bits;
    memcpy(&bits, &plain, sizeof bits);
    bits = bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
    return (uint64_t)bits << 32 | (uint64_t)position;
}

static inline float get_value(uint64_t key)
{
    uint32_t bits = (uint32_t)(key >> 32);
    bits = bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline int64_t get_position(uint64_t key) { return (int64_t)(key & 0xffffffffu); }

/* Sort `count` < 2^32 keys by their digits from `first_digit` on, least first; digits that all share cost nothing.
   Keys and scratch are two rooms of the same size, which may change places. */
static inline void sort_keys(uint64_t **keys, uint64_t **scratch, int64_t count, size_t first_digit)
{
    uint32_t counts[sizeof(uint64_t)][DIGITS] = {{0}};
    for (int64_t i = 0; i < count; i++)
        for (size_t digit = first_digit; digit < sizeof(uint64_t); digit++)
            counts[digit][(*keys)[i] >> 8 * digit & 0xff]++;
    for (size_t digit = first_digit; digit < sizeof(uint64_t); digit++) {
        uint64_t *const from = *keys, *const to = *scratch;
        uint32_t *places = counts[digit], sum = 0;
        if (count == 0 || places[from[0] >> 8 * digit & 0xff] == (uint32_t)count)
            continue;
        for (int i = 0; i < DIGITS; i++) {
            const uint32_t first = sum;
            sum += places[i];
            places[i] = first;
        }
        for (int64_t i = 0; i < count; i++)
            to[places[from[i] >> 8 * digit & 0xff]++] = from[i];
        *keys = to;
        *scratch = from;
    }
}

#endif
