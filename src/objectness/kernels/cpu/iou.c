/* Intersection over union of all pairs: the kernel beside boxes.compute_iou_plain.

   The matrix is written once and nothing else of its size exists. Every sum, product and quotient is that of the plain
   function in its order, so that the results are equal to the last bit; a coordinate that is not a number makes its
   box's area, and with it every IoU of the box, not a number either. */

#include <float.h>
#include <stdint.h>

#include "native.h"

enum { BLOCK = 1024 }; /* others that are looked at for one box after the other: 20 KiB, which the first cache holds */

typedef struct {
    float x1[BLOCK], y1[BLOCK], x2[BLOCK], y2[BLOCK], areas[BLOCK];
} Others;

static float smaller(float a, float b) { return a < b ? a : b; }
static float larger(float a, float b) { return a > b ? a : b; }

/* Keeps NaN, as torch.clamp does. */
static float at_least(float value, float limit) { return value < limit ? limit : value; }

static float compute_area(const float *box) { return at_least(box[2] - box[0], 0) * at_least(box[3] - box[1], 0); }

#define LOOPS "iou_loops.h"
#include "each_variant.h"

static void (*const fill_row[])(const Others *, int, const float *, float *) = VARIANTS(fill_row);

/* The IoUs of boxes (n, 4) with others (m, 4), as a matrix (n, m). */
EXPORT void objectness_iou(int variant, const float *boxes, int64_t n, const float *others, int64_t m, float *ious)
{
    Others block;
    for (int64_t start = 0; start < m; start += BLOCK) {
        const int count = (int)(m - start < BLOCK ? m - start : BLOCK);
        for (int i = 0; i < count; i++) {
            const float *other = others + 4 * (start + i);
            block.x1[i] = other[0];
            block.y1[i] = other[1];
            block.x2[i] = other[2];
            block.y2[i] = other[3];
            block.areas[i] = compute_area(other);
        }
        for (int64_t row = 0; row < n; row++)
            fill_row[variant](&block, count, boxes + 4 * row, ious + row * m + start);
    }
}
