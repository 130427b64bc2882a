/* Intersection over union of all pairs: the kernel beside boxes.compute_iou_plain.

   The matrix is written once and nothing else of its size exists. Every sum, product and quotient is that of the plain
   function in its order, so that the results are equal to the last bit; a coordinate that is not a number makes its
   box's area, and with it every IoU of the box, not a number either. */

#include <stdint.h>

#include "boxes.h"
#include "native.h"

enum { BLOCK = 1024 }; /* others that are looked at for one box after the other: 20 KiB, which the first cache holds */

#define LOOPS "iou_loops.h"
#include "each_variant.h"

static void (*const fill_row[])(const Columns *, int, Box, float *) = VARIANTS(fill_row);

/* The IoUs of boxes (n, 4) with others (m, 4), as a matrix (n, m). */
EXPORT void objectness_iou(int variant, const float *boxes, int64_t n, const float *others, int64_t m, float *ious)
{
    float room[5][BLOCK];
    const Columns block = {room[0], room[1], room[2], room[3], room[4]};
    for (int64_t start = 0; start < m; start += BLOCK) {
        const int count = (int)(m - start < BLOCK ? m - start : BLOCK);
        for (int i = 0; i < count; i++)
            put_box(&block, i, read_box(others, start + i));
        for (int64_t row = 0; row < n; row++)
            fill_row[variant](&block, count, read_box(boxes, row), ious + row * m + start);
    }
}
