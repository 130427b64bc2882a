/* Boxes, xyxy in px, with the arithmetic of geometry/boxes.py: every sum, product and quotient in its order.

   The functions are small enough to be inlined into the loops that each_variant.h compiles. */

#ifndef OBJECTNESS_BOXES_H
#define OBJECTNESS_BOXES_H

#include <float.h>
#include <stdint.h>

#include "memory.h"

typedef struct {
    float x1, y1, x2, y2;
} Box;

/* Boxes coordinate by coordinate, as loops over many of them want them. */
typedef struct {
    float *x1, *y1, *x2, *y2, *areas;
} Columns;

static inline float smaller(float a, float b) { return a < b ? a : b; }
static inline float larger(float a, float b) { return a > b ? a : b; }

/* Both keep a value that is NaN, as torch.clamp does. */
static inline float at_least(float value, float limit) { return value < limit ? limit : value; }
static inline float at_most(float value, float limit) { return value > limit ? limit : value; }

/* One row of a tensor (n, 4). */
static inline Box read_box(const float *boxes, int64_t index)
{
    const float *box = boxes + 4 * index;
    return (Box){box[0], box[1], box[2], box[3]};
}

/* boxes.compute_areas */
static inline float compute_area(Box box) { return at_least(box.x2 - box.x1, 0) * at_least(box.y2 - box.y1, 0); }

/* Without area, infinite, or not a number: such a box overlaps nothing. */
static inline int is_idle(float area) { return !(area > 0 && area <= FLT_MAX); }

/* boxes.compute_intersections */
static inline float compute_intersection(Box a, Box b)
{
    const float width = at_least(smaller(a.x2, b.x2) - larger(a.x1, b.x1), 0);
    const float height = at_least(smaller(a.y2, b.y2) - larger(a.y1, b.y1), 0);
    return width * height;
}

/* boxes.compute_iou_plain, from an intersection and the areas of both boxes. */
static inline float divide_by_union(float intersection, float area, float other_area)
{
    return intersection / at_least((area + other_area) - intersection, FLT_MIN);
}

static inline float compute_iou(Box a, float a_area, Box b, float b_area)
{
    return divide_by_union(compute_intersection(a, b), a_area, b_area);
}

static inline Columns carve_columns(char *memory, size_t *used, int64_t count)
{
    Columns columns;
    columns.x1 = carve(memory, used, count, sizeof(float));
    columns.y1 = carve(memory, used, count, sizeof(float));
    columns.x2 = carve(memory, used, count, sizeof(float));
    columns.y2 = carve(memory, used, count, sizeof(float));
    columns.areas = carve(memory, used, count, sizeof(float));
    return columns;
}

/* The same columns from another box on. */
static inline Columns skip_boxes(const Columns *columns, int64_t count)
{
    return (Columns){columns->x1 + count, columns->y1 + count, columns->x2 + count, columns->y2 + count,
                     columns->areas + count};
}

static inline Box get_box(const Columns *columns, int64_t index)
{
    return (Box){columns->x1[index], columns->y1[index], columns->x2[index], columns->y2[index]};
}

static inline void put_box(const Columns *columns, int64_t index, Box box)
{
    columns->x1[index] = box.x1;
    columns->y1[index] = box.y1;
    columns->x2[index] = box.x2;
    columns->y2[index] = box.y2;
    columns->areas[index] = compute_area(box);
}

#endif
