/* From the head's maps of one image to its proposals: the kernel beside proposals.select_proposals_plain.

   Nothing is permuted, joined or copied, no score is computed, and nearly nothing is decoded:

   1. Logits are read where they lie, and those that reach a bar are collected: first the bar that a sample suggests,
      and whenever the collection is full, it is sorted and cut, and the worst of the best `per_level` is the bar.
      If too few reached the sample's, everything is read again without it.
   2. The levels' best, sorted, are walked together in falling order of their logits. Only now a region is decoded, from
      its place in the grid; clipped or dropped; and compared with those kept of its own level, or of all, many at a time.
   3. The walk ends when enough are kept, which is long before the candidates do.

   A logit and its anchor's position are one integer (make_key), so that sorting settles ties by the order of anchors.
   Working memory is of order per_level, not of the maps. Every sum, product and quotient is that of the plain function
   in its order, and the library is compiled without fused multiply-add; but exp() is the C library's, which differs
   from torch's by a unit in the last place now and then.

   Sources: Faster R-CNN, section 3.3; FPN, section 4.1; anchors and their nearest ones as in anchors.py. */

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "boxes.h"
#include "memory.h"
#include "native.h"
#include "radix.h"

enum {
    BLOCK = 32,      /* logits or boxes that a loop decides at once */
    SEGMENT = 1024,  /* logits that are read at once; a multiple of BLOCK */
    SLACK = 4096,    /* a collection has room for per_level and this, or for twice per_level */
    SAMPLE = 1024,   /* logits that a bar is guessed from; less than SLACK */
};

/* What a logit must reach at least: -inf and NaN do not. */
#define LOWEST (-FLT_MAX)

/* The values of a tensor (N, C, H, W); strides count floats. */
typedef struct {
    const float *data;
    int64_t image, channel, row, column;
} Map;

/* One level, as selection.py hands it over. */
typedef struct {
    Map logits;          /* 2 A channels, (object, no object) for each anchor of a cell, or A */
    Map deltas;          /* 4 A channels, (dx, dy, dw, dh) for each anchor of a cell */
    const float *shapes; /* (A, 4) xyxy around the origin, px */
    int64_t height, width;
    float stride_y, stride_x; /* px */
} Level;

typedef struct {
    int64_t num_levels, num_shapes;
    int64_t logits_per_anchor; /* 1 or 2 */
    int64_t first_level;       /* what the finest level is called */
    int64_t per_level, keep;
    int64_t across_levels; /* whether levels suppress each other */
    float nms_iou, min_visible, min_size;
    float min_log_scale, max_log_scale;       /* of dw and dh */
    const float *log_sizes, *log_ratios;      /* of levels and shapes, for the score of the nearest anchor; or NULL */
} Options;

typedef struct {
    int64_t row, column;
} Cell;

/* The boxes kept of one level; beyond `count` there are zeros up to a whole BLOCK. */
typedef struct {
    Columns boxes;
    int64_t count;
} Kept;

/* What one level sends into suppression. */
typedef struct {
    uint64_t *keys;
    int64_t count, next;
    Kept kept;
} Queue;

/* Keys on their way through one level, as much room to sort them, and the logits that are looked at. */
typedef struct {
    uint64_t *keys, *scratch;
    int64_t capacity, count;
    float least; /* what a logit must reach now */
    float segment[SEGMENT];
} Collection;

/* One call: an image of a batch, and how to go about it. */
typedef struct {
    const Options *options;
    const Level *levels;
    int64_t image;
    float height, width; /* of the image within its padding, px */
    int variant;
} Task;

static int64_t smaller_count(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger_count(int64_t a, int64_t b) { return a > b ? a : b; }

#define LOOPS "selection_loops.h"
#include "each_variant.h"

static void (*const fold[])(const float *, const float *, int64_t, int64_t, float *) = VARIANTS(fold);
static int64_t (*const collect[])(const float *, int64_t, float, int64_t, int64_t, uint64_t *) = VARIANTS(collect);
static int (*const is_suppressed[])(const Kept *, Box, float) = VARIANTS(is_suppressed);

/* Anchors and regions */

static int64_t count_cells(const Level *level) { return level->height * level->width; }

static int64_t count_anchors(const Options *options, const Level *level)
{
    return options->num_shapes * count_cells(level);
}

static Cell find_cell(const Level *level, int64_t number)
{
    return (Cell){number / level->width, number % level->width};
}

/* Where a channel of a cell lies. */
static const float *find_value(const Map *map, int64_t image, int64_t channel, Cell cell)
{
    return map->data + image * map->image + channel * map->channel + cell.row * map->row + cell.column * map->column;
}

/* The region that a shape of a cell became: anchors.place_shapes, then boxes.decode_deltas. */
static Box decode(const Task *task, const Level *level, int64_t shape, Cell cell)
{
    const Options *options = task->options;
    const float *code = find_value(&level->deltas, task->image, 4 * shape, cell);
    const float *corners = level->shapes + 4 * shape;
    const int64_t step = level->deltas.channel;
    const float x = (float)cell.column * level->stride_x, y = (float)cell.row * level->stride_y;
    const float x1 = x + corners[0], y1 = y + corners[1];
    const float width = x + corners[2] - x1, height = y + corners[3] - y1;
    const float centre_x = x1 + 0.5f * width + code[0] * width;
    const float centre_y = y1 + 0.5f * height + code[step] * height;
    const float log_width = at_least(at_most(code[2 * step], options->max_log_scale), options->min_log_scale);
    const float log_height = at_least(at_most(code[3 * step], options->max_log_scale), options->min_log_scale);
    const float half_width = 0.5f * width * expf(log_width), half_height = 0.5f * height * expf(log_height);
    return (Box){centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height};
}

/* Clip a region to the image, or say that it is none: proposals.correct_border. NaN fails every comparison. */
static int correct_border(const Task *task, Box *box)
{
    const Options *options = task->options;
    const Box whole = *box;
    box->x1 = at_most(at_least(whole.x1, 0), task->width);
    box->y1 = at_most(at_least(whole.y1, 0), task->height);
    box->x2 = at_most(at_least(whole.x2, 0), task->width);
    box->y2 = at_most(at_least(whole.y2, 0), task->height);
    if (!(box->x2 - box->x1 >= options->min_size && box->y2 - box->y1 >= options->min_size))
        return 0;
    if (!(options->min_visible > 0))
        return 1;
    const float area = compute_area(whole);
    return area > 0 && compute_area(*box) / area >= options->min_visible;
}

/* Scores */

static int64_t find_nearest(float value, const float *choices, int64_t count)
{
    int64_t best = 0;
    for (int64_t i = 1; i < count; i++)
        if (fabsf(value - choices[i]) < fabsf(value - choices[best]))
            best = i;
    return best;
}

/* The row, or the column, whose centres are nearest, or that at the border. */
static int64_t find_nearest_line(float centre, float stride, int64_t count)
{
    const float line = rintf(centre / stride); /* half to even, as torch.round */
    return isnan(line) ? 0 : (int64_t)at_most(at_least(line, 0), (float)(count - 1));
}

static float read_logit(const Task *task, const Level *level, int64_t shape, Cell cell)
{
    const int64_t channel = task->options->logits_per_anchor * shape;
    const float *object = find_value(&level->logits, task->image, channel, cell);
    return task->options->logits_per_anchor == 2 ? object[0] - object[level->logits.channel] : object[0];
}

/* The logit of the anchor most like a region: anchors.find_nearest_anchors. */
static float read_nearest_logit(const Task *task, Box box)
{
    const Options *options = task->options;
    const float width = at_least(box.x2 - box.x1, 0.01f), height = at_least(box.y2 - box.y1, 0.01f);
    const float log_area = logf(width) + logf(height);
    const Level *level = task->levels + find_nearest(log_area / 2, options->log_sizes, options->num_levels);
    const int64_t shape = find_nearest(logf(height / width), options->log_ratios, options->num_shapes);
    if (count_cells(level) == 0)
        return -INFINITY;
    const Cell cell = {find_nearest_line((box.y1 + box.y2) / 2, level->stride_y, level->height),
                       find_nearest_line((box.x1 + box.x2) / 2, level->stride_x, level->width)};
    return read_logit(task, level, shape, cell);
}

/* The logits of one shape on cells that follow each other at one distance in memory. */
static void read_segment(const Task *task, const Level *level, int64_t shape, int64_t first, int64_t count, float *out)
{
    const int64_t channel = task->options->logits_per_anchor * shape;
    Cell cell = find_cell(level, first);
    if (!task->options->log_sizes) {
        const float *object = find_value(&level->logits, task->image, channel, cell);
        const float *nothing = task->options->logits_per_anchor == 2 ? object + level->logits.channel : NULL;
        fold[task->variant](object, nothing, level->logits.column, count, out);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        out[i] = read_nearest_logit(task, decode(task, level, shape, cell));
        if (++cell.column == level->width)
            cell = (Cell){cell.row + 1, 0};
    }
}

/* The best of a level */

/* Sort what was collected and keep the best; from now on a logit must reach the worst of them. */
static void cut(Collection *collection, int64_t most)
{
    sort_keys(&collection->keys, &collection->scratch, collection->count, 0);
    if (collection->count >= most) {
        collection->count = most;
        collection->least = get_value(collection->keys[most - 1]);
    }
}

/* What a sample says that the best `most` of a level will reach, with two standard deviations of its rank to spare. */
static float guess_least(const Task *task, const Level *level, int64_t most, Collection *collection)
{
    const int64_t num_shapes = task->options->num_shapes, num_anchors = count_anchors(task->options, level);
    const double share = (double)most * SAMPLE / (double)num_anchors;
    const double rank = share + 2 * sqrt(share) + 2;
    if (num_anchors <= collection->capacity || rank >= SAMPLE)
        return LOWEST;
    for (int64_t i = 0; i < SAMPLE; i++) {
        const int64_t position = i * num_anchors / SAMPLE;
        float logit;
        read_segment(task, level, position % num_shapes, position / num_shapes, 1, &logit);
        collection->keys[i] = make_key(logit >= LOWEST ? logit : LOWEST, 0);
    }
    sort_keys(&collection->keys, &collection->scratch, SAMPLE, 0);
    return get_value(collection->keys[(int)rank]);
}

/* Collect, of the logits that reach `least`, the best `most` of a level, sorted. */
static void collect_from(const Task *task, const Level *level, int64_t most, float least, Collection *collection)
{
    const int64_t num_shapes = task->options->num_shapes, num_cells = count_cells(level);
    const Map *map = &level->logits;
    const int64_t run = map->row == level->width * map->column ? num_cells : level->width;
    collection->count = 0;
    collection->least = least;
    for (int64_t shape = 0; shape < num_shapes; shape++) {
        int64_t size;
        for (int64_t cell = 0; cell < num_cells; cell += size) {
            size = smaller_count(SEGMENT, run - cell % run);
            if (collection->count + size > collection->capacity)
                cut(collection, most);
            read_segment(task, level, shape, cell, size, collection->segment);
            collection->count +=
                collect[task->variant](collection->segment, size, collection->least, cell * num_shapes + shape,
                                       num_shapes, collection->keys + collection->count);
        }
    }
    cut(collection, most);
}

/* Collect the best `most` anchors of a level, sorted. */
static void collect_best(const Task *task, const Level *level, int64_t most, Collection *collection)
{
    const float least = guess_least(task, level, most, collection);
    collect_from(task, level, most, least, collection);
    if (collection->count < most && least > LOWEST)
        collect_from(task, level, most, LOWEST, collection);
}

/* Suppression */

static Queue *find_best_queue(Queue *queues, int64_t count)
{
    Queue *best = NULL;
    for (Queue *queue = queues; queue < queues + count; queue++)
        if (queue->next < queue->count &&
            (!best || queue->keys[queue->next] >> 32 < best->keys[best->next] >> 32))
            best = queue;
    return best; /* of equal logits the finest level's */
}

/* Whether a better region suppresses this one: of its own level, or of any. */
static int is_taken(const Task *task, const Queue *queues, const Queue *own, Box box)
{
    const Options *options = task->options;
    if (!options->across_levels)
        return is_suppressed[task->variant](&own->kept, box, options->nms_iou);
    for (const Queue *queue = queues; queue < queues + options->num_levels; queue++)
        if (is_suppressed[task->variant](&queue->kept, box, options->nms_iou))
            return 1;
    return 0;
}

/* Walk the queues together, best first, and write down what nothing better suppresses. */
static int64_t suppress(const Task *task, Queue *queues, float *boxes, float *logits, int64_t *levels)
{
    const Options *options = task->options;
    int64_t count = 0;
    while (count < options->keep) {
        Queue *queue = find_best_queue(queues, options->num_levels);
        if (!queue)
            break;
        const uint64_t key = queue->keys[queue->next++];
        const int64_t index = queue - queues, position = get_position(key);
        const Level *level = task->levels + index;
        const Cell cell = find_cell(level, position / options->num_shapes);
        Box box = decode(task, level, position % options->num_shapes, cell);
        if (!correct_border(task, &box) || is_taken(task, queues, queue, box))
            continue;
        put_box(&queue->kept.boxes, queue->kept.count++, box);
        memcpy(boxes + 4 * count, &box, sizeof box);
        logits[count] = get_value(key);
        levels[count] = options->first_level + index;
        count++;
    }
    return count;
}

/* Memory */

static int64_t count_best(const Options *options, const Level *level)
{
    return smaller_count(options->per_level, count_anchors(options, level));
}

/* Room for everything that a call needs; returns its size in bytes. */
static size_t carve_all(const Task *task, char *memory, Queue **queues, Collection **collection)
{
    const Options *options = task->options;
    size_t used = 0;
    int64_t capacity = 0;
    Queue *all = carve(memory, &used, options->num_levels, sizeof *all);
    Collection *shared = carve(memory, &used, 1, sizeof *shared);
    for (int64_t i = 0; i < options->num_levels; i++) {
        const int64_t best = count_best(options, task->levels + i);
        uint64_t *keys = carve(memory, &used, best, sizeof *keys);
        const int64_t blocks = (smaller_count(best, options->keep) + BLOCK - 1) / BLOCK;
        const Columns kept = carve_columns(memory, &used, blocks * BLOCK);
        if (memory)
            all[i] = (Queue){.keys = keys, .kept = {.boxes = kept}};
        capacity = larger_count(capacity, smaller_count(best + larger_count(best, SLACK),
                                                        count_anchors(options, task->levels + i)));
    }
    uint64_t *keys = carve(memory, &used, capacity, sizeof *keys);
    uint64_t *scratch = carve(memory, &used, capacity, sizeof *scratch);
    if (memory)
        *shared = (Collection){.keys = keys, .scratch = scratch, .capacity = capacity};
    *queues = all;
    *collection = shared;
    return used;
}

/* The proposals of one image of a batch.

   boxes (most, 4), logits (most,) and levels (most,) have room for as many proposals as there can be: `most` is keep,
   or the best of all levels where these are fewer. Returns how many there are, best first, or ERROR_MEMORY. An image
   whose size is not a number has none: nothing can be clipped to it. */
EXPORT int64_t objectness_select(int variant, const Options *options, const Level *levels, int64_t image, float height,
                                 float width, float *boxes, float *logits, int64_t *numbers)
{
    if (isnan(height) || isnan(width))
        return 0;
    const Task task = {options, levels, image, height, width, variant};
    Queue *queues;
    Collection *collection;
    char *memory = calloc(1, carve_all(&task, NULL, &queues, &collection));
    if (!memory)
        return ERROR_MEMORY;
    carve_all(&task, memory, &queues, &collection);
    for (int64_t i = 0; i < options->num_levels; i++) {
        collect_best(&task, levels + i, count_best(options, levels + i), collection);
        memcpy(queues[i].keys, collection->keys, (size_t)collection->count * sizeof *queues[i].keys);
        queues[i].count = collection->count;
    }
    const int64_t count = suppress(&task, queues, boxes, logits, numbers);
    free(memory);
    return count;
}
