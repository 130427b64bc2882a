/* One block of memory for everything that a call needs, cut into parts. */

#ifndef OBJECTNESS_MEMORY_H
#define OBJECTNESS_MEMORY_H

#include <stddef.h>
#include <stdint.h>

enum { ALIGNMENT = 64 }; /* bytes; a line of the cache, and the widest vector */

/* The next `count` items of a block; without a block, only the room that they take is added up. */
static inline void *carve(char *memory, size_t *used, int64_t count, size_t size)
{
    void *part = memory ? memory + *used : NULL;
    *used += ((size_t)count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return part;
}

#endif
