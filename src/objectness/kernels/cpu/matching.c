/* Which anchors of a grid stand for which box: the kernel beside matching.match_grid_plain.

   Anchors are a grid, so that for a box and a shape it is known what IoU they can have at best, and that the cells
   where it reaches a threshold form a window. For each box:

   1. the anchor of each shape nearest to the box says what the best IoU is at least;
   2. windows, one a shape, in which the IoU can reach `negative_iou`, or that best IoU where it is less, give what each
      anchor has at most, and the best IoU of the box;
   3. the windows of that best IoU, mostly a cell or none, give every anchor that has it.

   An anchor that is the best of a box, but reaches `negative_iou` with none, is compared with every box after all.

   The window: with IoU t, intersection I and areas B and A, I >= t / (1 + t) (B + A). The heights share min(h, a_h) at
   most, so that the widths share I / min(h, a_h) at least; with this, the shape's edges bound x from both sides. Bounds
   are in double and allow for the rounding of float32; every IoU that counts has the arithmetic of boxes.compute_iou,
   and every anchor the coordinates of anchors.place_shapes.

   Nothing of size anchors x boxes is ever held. Source: Faster R-CNN, section 3.1.2. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "boxes.h"
#include "memory.h"
#include "native.h"

enum { POSITIVE = 1, NEGATIVE = 0, UNUSED = -1 }; /* of matching.py */

enum {
    LANES = 16,    /* boxes or anchors that a loop takes at once */
    COLUMNS = 256, /* of a window that are looked at together; a multiple of LANES */
};

#define SLACK 1e-6    /* relative; the rounding of float32 is 6e-8 */
#define TINY 1e-30    /* IoUs and areas (px^2) below this are rounded so coarsely that nothing follows from them */

/* One level, as matching.py hands it over. */
typedef struct {
    const float *shapes; /* (A, 4) xyxy around the origin, px */
    int64_t height, width;
    float stride_y, stride_x; /* px */
} Level;

typedef struct {
    int64_t num_levels, num_shapes;
    float positive_iou, negative_iou, crowd_share;
} Options;

/* One shape of one level. Its anchors are `width` x `height`, and no edge is further than `error` from its place. */
typedef struct {
    Box corners; /* around the origin */
    const Level *level;
    int64_t first; /* position of its anchor in cell (0, 0) */
    double width, height, min_area, error;
} Shape;

/* Cells, first and last included; empty if last < first. */
typedef struct {
    int first_row, last_row, first_column, last_column;
} Window;

/* One call. */
typedef struct {
    const Options *options;
    const float *boxes;
    int64_t num_boxes;
    int8_t *labels;
    int64_t *matched;
    float *ious;
    int variant;

    Shape *shapes;
    int64_t num_shapes; /* of all levels */
    Columns columns;    /* the boxes again; beyond the last there are zeros up to whole LANES */
} Task;

#define LOOPS "matching_loops.h"
#include "each_variant.h"

static void (*const measure_columns[])(int, int, float, Box, Box, float *, float *) =
    VARIANTS(measure_columns);
static int (*const measure_row[])(const float *, const float *, int, float, float, float, float, float *) =
    VARIANTS(measure_row);
static void (*const find_ignored[])(const float *, const float *, int, float, float, float, float, float, int32_t *) =
    VARIANTS(find_ignored);
static int64_t (*const find_better[])(const Columns *, int64_t, int64_t, Box, float, float *) = VARIANTS(find_better);

/* Anchors */

static Box place_shape(const Shape *shape, int row, int column)
{
    const float x = (float)column * shape->level->stride_x, y = (float)row * shape->level->stride_y;
    const Box corners = shape->corners;
    return (Box){x + corners.x1, y + corners.y1, x + corners.x2, y + corners.y2};
}

static int64_t find_position(const Task *task, const Shape *shape, int row, int column)
{
    return shape->first + (row * shape->level->width + column) * task->options->num_shapes;
}

/* List the shapes that can overlap anything; returns how many anchors there are. */
static int64_t list_shapes(Task *task, const Level *levels)
{
    int64_t first = 0;
    for (const Level *level = levels; level < levels + task->options->num_levels; level++) {
        const int64_t num_cells = level->height * level->width;
        for (int64_t i = 0; i < task->options->num_shapes && num_cells; i++) {
            Shape shape = {.level = level, .first = first + i, .corners = read_box(level->shapes, i)};
            const double x1 = shape.corners.x1, y1 = shape.corners.y1, x2 = shape.corners.x2, y2 = shape.corners.y2;
            const double right = (double)level->width * level->stride_x;
            const double bottom = (double)level->height * level->stride_y;
            shape.error = SLACK * (fmax(right, bottom) + fmax(fmax(fabs(x1), fabs(y1)), fmax(fabs(x2), fabs(y2))));
            shape.width = x2 - x1;
            shape.height = y2 - y1;
            shape.min_area = fmax(shape.width - 2 * shape.error, 0) * fmax(shape.height - 2 * shape.error, 0);
            if (shape.width * shape.height <= FLT_MAX) /* an infinite anchor has an IoU of 0 */
                task->shapes[task->num_shapes++] = shape;
        }
        first += num_cells * task->options->num_shapes;
    }
    return first;
}

/* Windows */

/* The cells 0..count - 1 of a stride that lie between two places, px. */
static void find_cells(double low, double high, double stride, int64_t count, int *first, int *last)
{
    *first = 0;
    *last = (int)count - 1;
    if (stride > 0) {
        *first = (int)fmin(fmax(ceil(low / stride), 0), (double)count);
        *last = (int)fmax(fmin(floor(high / stride), (double)count - 1), -1);
    }
}

/* The cells where an anchor of this shape can share `shared` px^2 with a box. */
static Window find_window(const Shape *shape, Box box, double shared)
{
    const double width = fmin((double)box.x2 - box.x1, shape->width + 2 * shape->error);
    const double height = fmin((double)box.y2 - box.y1, shape->height + 2 * shape->error);
    const double shared_width = shared > 0 ? shared * (1 - SLACK) / height : 0;
    const double shared_height = shared > 0 ? shared * (1 - SLACK) / width : 0;
    Window window = {0, -1, 0, -1};
    if (shared_width > width * (1 + SLACK) || shared_height > height * (1 + SLACK))
        return window;
    const Level *level = shape->level;
    const Box corners = shape->corners;
    find_cells((double)box.x1 - corners.x2 + shared_width - shape->error,
               (double)box.x2 - corners.x1 - shared_width + shape->error, level->stride_x, level->width,
               &window.first_column, &window.last_column);
    find_cells((double)box.y1 - corners.y2 + shared_height - shape->error,
               (double)box.y2 - corners.y1 - shared_height + shape->error, level->stride_y, level->height,
               &window.first_row, &window.last_row);
    return window;
}

/* Where the IoU of a box with a shape can reach `least`; at 0, where they can overlap. */
static Window find_iou_window(const Shape *shape, Box box, float area, float least)
{
    const double iou = least > TINY ? least * (1 - SLACK) : 0;
    const double shared = iou / (1 + iou) * (area + shape->min_area);
    return find_window(shape, box, shared > TINY ? shared : 0);
}

/* Boxes */

/* The box of highest IoU with an anchor, the first of equals, written down. */
static void match_anchor(Task *task, int64_t position, Box anchor)
{
    float ious[LANES], best = 0;
    const int64_t last = task->num_boxes;
    for (int64_t first = 0; first < last; first += LANES) {
        first = find_better[task->variant](&task->columns, first, last, anchor, best, ious);
        if (first >= last)
            break;
        for (int i = 0; i < LANES; i++) {
            if (ious[i] > best) {
                best = ious[i];
                task->matched[position] = first + i;
            }
        }
    }
    task->ious[position] = best;
}

/* Write down what a box has with one of the anchors, if it is its best so far. */
static void offer_box(Task *task, int64_t index, int64_t position, float iou)
{
    if (iou <= task->ious[position])
        return;
    task->ious[position] = iou;
    task->matched[position] = index;
    if (iou >= task->options->positive_iou)
        task->labels[position] = POSITIVE;
    else if (task->labels[position] != POSITIVE)
        task->labels[position] = UNUSED;
}

/* Step 1. */
static float guess_best(const Task *task, Box box, float area)
{
    float best = 0;
    for (const Shape *shape = task->shapes; shape < task->shapes + task->num_shapes; shape++) {
        const Level *level = shape->level;
        const double width = fmin((double)box.x2 - box.x1, shape->width);
        const double height = fmin((double)box.y2 - box.y1, shape->height), shared = width * height;
        if (shared < best * (area + shape->min_area - shared))
            continue;
        const double x = ((double)box.x1 + box.x2 - shape->corners.x1 - shape->corners.x2) / 2;
        const double y = ((double)box.y1 + box.y2 - shape->corners.y1 - shape->corners.y2) / 2;
        const double column = fmin(fmax(rint(x / level->stride_x), 0), (double)level->width - 1);
        const double row = fmin(fmax(rint(y / level->stride_y), 0), (double)level->height - 1);
        const Box anchor = place_shape(shape, (int)row, (int)column);
        best = larger(compute_iou(box, area, anchor, compute_area(anchor)), best);
    }
    return best;
}

/* What happens to the anchors of a window whose IoU with a box reaches a threshold. */
typedef struct {
    int64_t index;  /* of the box */
    float least;    /* this IoU counts */
    float best;     /* the highest so far */
    int finds_best; /* step 2: offer the box to them; otherwise step 3: mark them as the best */
} Visit;

static void visit_row(Task *task, Visit *visit, const Shape *shape, int row, int first_column, int count,
                      const float *ious)
{
    const int64_t first = find_position(task, shape, row, first_column);
    for (int i = 0; i < count; i++) {
        if (!(ious[i] >= visit->least))
            continue;
        const int64_t position = first + i * task->options->num_shapes;
        if (visit->finds_best) {
            visit->best = larger(ious[i], visit->best);
            if (ious[i] >= task->options->negative_iou)
                offer_box(task, visit->index, position, ious[i]);
        } else {
            task->labels[position] = POSITIVE;
            if (task->ious[position] == 0)
                match_anchor(task, position, place_shape(shape, row, first_column + i));
        }
    }
}

static int round_up(int count) { return (count + LANES - 1) / LANES * LANES; }

static void visit_shape(Task *task, Visit *visit, const Shape *shape)
{
    const Box box = read_box(task->boxes, visit->index);
    const float area = compute_area(box);
    const Window window = find_iou_window(shape, box, area, visit->least);
    float widths[COLUMNS], overlaps[COLUMNS], ious[COLUMNS];
    for (int column = window.first_column; column <= window.last_column; column += COLUMNS) {
        const int left = window.last_column + 1 - column, count = left < COLUMNS ? left : COLUMNS;
        measure_columns[task->variant](column, round_up(count), shape->level->stride_x, shape->corners, box, widths,
                                       overlaps);
        for (int row = window.first_row; row <= window.last_row; row++) {
            const Box anchor = place_shape(shape, row, column);
            const float height = at_least(anchor.y2 - anchor.y1, 0);
            const float overlap = at_least(smaller(box.y2, anchor.y2) - larger(box.y1, anchor.y1), 0);
            if (measure_row[task->variant](widths, overlaps, round_up(count), height, overlap, area, visit->least,
                                           ious))
                visit_row(task, visit, shape, row, column, count, ious);
        }
    }
}

static void match_box(Task *task, int64_t index)
{
    const Box box = read_box(task->boxes, index);
    const float area = compute_area(box);
    if (is_idle(area))
        return;
    const float guess = guess_best(task, box, area), least = task->options->negative_iou;
    Visit visit = {.index = index, .best = guess, .least = smaller(guess, least), .finds_best = 1};
    for (const Shape *shape = task->shapes; shape < task->shapes + task->num_shapes; shape++) {
        visit_shape(task, &visit, shape);
        visit.least = smaller(visit.best, least);
    }
    if (!(visit.best > 0))
        return;
    visit.least = visit.best;
    visit.finds_best = 0;
    for (const Shape *shape = task->shapes; shape < task->shapes + task->num_shapes; shape++)
        visit_shape(task, &visit, shape);
}

/* Ignored regions */

/* Take the anchors that lie in an ignored region, or fit it, from the negatives. */
static void spare_ignored(Task *task, Box region, const Shape *shape)
{
    const float share = task->options->crowd_share, least = task->options->negative_iou, area = compute_area(region);
    const double shared = smaller(share, least) * (1 - SLACK) * shape->min_area; /* an IoU is at most a share */
    const Window window = find_window(shape, region, shared > TINY ? shared : 0);
    float widths[COLUMNS], overlaps[COLUMNS];
    int32_t ignored[COLUMNS];
    for (int column = window.first_column; column <= window.last_column; column += COLUMNS) {
        const int left = window.last_column + 1 - column, count = left < COLUMNS ? left : COLUMNS;
        measure_columns[task->variant](column, round_up(count), shape->level->stride_x, shape->corners, region, widths,
                                       overlaps);
        for (int row = window.first_row; row <= window.last_row; row++) {
            const Box anchor = place_shape(shape, row, column);
            const float height = at_least(anchor.y2 - anchor.y1, 0);
            const float overlap = at_least(smaller(region.y2, anchor.y2) - larger(region.y1, anchor.y1), 0);
            find_ignored[task->variant](widths, overlaps, round_up(count), height, overlap, area, share, least,
                                        ignored);
            int8_t *labels = task->labels + find_position(task, shape, row, column);
            for (int i = 0; i < count; i++, labels += task->options->num_shapes)
                *labels = ignored[i] && *labels == NEGATIVE ? UNUSED : *labels;
        }
    }
}

/* Room for everything that a call needs; returns its size in bytes, never 0. */
static size_t carve_task(Task *task, char *memory)
{
    const int64_t num_shapes = task->options->num_levels * task->options->num_shapes;
    size_t used = 0;
    task->shapes = carve(memory, &used, num_shapes, sizeof *task->shapes);
    task->columns = carve_columns(memory, &used, task->num_boxes + LANES);
    return used;
}

/* Labels (K,), matched boxes (K,) and IoUs (K,) of the anchors of a grid; the last two come as zeros.

   boxes is (num_boxes, 4), ignored (num_ignored, 4). Returns 0, or ERROR_MEMORY. */
EXPORT int64_t objectness_match(int variant, const Options *options, const Level *levels, const float *boxes,
                                int64_t num_boxes, const float *ignored, int64_t num_ignored, int8_t *labels,
                                int64_t *matched, float *ious)
{
    Task task = {
        .options = options,
        .boxes = boxes,
        .num_boxes = num_boxes,
        .labels = labels,
        .matched = matched,
        .ious = ious,
        .variant = variant,
    };
    char *memory = calloc(1, carve_task(&task, NULL));
    if (!memory)
        return ERROR_MEMORY;
    carve_task(&task, memory);
    for (int64_t i = 0; i < num_boxes; i++)
        put_box(&task.columns, i, read_box(boxes, i));
    const int64_t num_anchors = list_shapes(&task, levels);
    const int without = options->positive_iou <= 0 ? POSITIVE : options->negative_iou <= 0 ? UNUSED : NEGATIVE;
    if (num_anchors) /* without any, there may be no memory either */
        memset(labels, without, (size_t)num_anchors);
    for (int64_t i = 0; i < num_boxes; i++)
        match_box(&task, i);
    for (int64_t i = 0; i < num_ignored; i++) {
        const Box region = read_box(ignored, i);
        if (region.x2 > region.x1 && region.y2 > region.y1) /* NaN fails, too */
            for (Shape *shape = task.shapes; shape < task.shapes + task.num_shapes; shape++)
                spare_ignored(&task, region, shape);
    }
    free(memory);
    return 0;
}
