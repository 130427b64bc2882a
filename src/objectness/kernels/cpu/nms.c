/* Greedy non-maximum suppression: the kernel beside suppression.nms_plain.

   Candidates are decided in falling order of their scores, each against those kept before it. While few are kept, it is
   compared with all of them. Later they are put into bins: two boxes whose IoU exceeds t are alike, since the width and
   the height of one are at least t times those of the other, and their centres are near each other. There is a bin for
   each octave of the longer side, cell of a grid that the centre lies in, and group; cells are longer than the boxes of
   their octave, and a candidate looks into the few bins where an overlap can be. At a low threshold boxes need not be
   alike, and there are bins for the groups alone.

   Bins are found by a hash, and several may fall together, or be looked into twice: every comparison that is made is
   a true one, so that bins can only save some. The room of a bin is known from a first count; what lies in its empty
   slots is zeros, or in the slots behind it some other bin's boxes, which do no harm either.

   A pair is first compared by multiplication, several at once and a little loosely; what passes is decided by the
   arithmetic of boxes.compute_iou, true division in float32.

   The caller's tensors may change under our hands, since ctypes lets other threads run. What is kept may then be
   anything, but no value is an index before it has been checked: a box is read once for each decision. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "boxes.h"
#include "memory.h"
#include "native.h"
#include "radix.h"

enum {
    LANES = 16,   /* kept boxes that are compared at once */
    FEW = 512,    /* up to so many boxes kept, bins would cost more than they save */
    MIN_OCTAVE = -150, MAX_OCTAVE = 129, /* of the sides that float32 can have, and one more */
};

#define LOW_THRESHOLD 0.2f /* from here on boxes are alike enough for bins */
#define SLACK 1e-5         /* relative; the rounding of float32 is 6e-8, as areas that it rounds worse have no IoU */

/* Where boxes are kept, bin by bin. */
typedef struct {
    Columns kept;
    int64_t *indices;        /* which candidate each of them is */
    int64_t *starts, *fills; /* (mask + 1,) first slot and boxes kept, of each bin */
    int32_t *bins;           /* (n,) of each candidate; NULL where there is one bin alone */
    uint64_t mask;           /* a power of two less one */
    int64_t octaves[MAX_OCTAVE - MIN_OCTAVE + 1]; /* boxes kept, of each octave */
    char *memory;            /* of all this */
} Store;

/* One call. */
typedef struct {
    const float *boxes;
    const int64_t *groups; /* or NULL: all are one group */
    int64_t n;
    float threshold, low;  /* what the decision asks, and what the loose comparison does */
    double likeness;       /* at least this share of the other's sides; 0: no bins but the groups' */
    int variant;
} Task;

#define LOOPS "nms_loops.h"
#include "each_variant.h"

static int64_t (*const find_overlap[])(const Columns *, int64_t, int64_t, Box, float, float) = VARIANTS(find_overlap);

/* Order */

/* Positions by falling score, equal ones in their order, NaN as -inf; in the lower halves of what it returns, which is
   one of two rooms of n keys each. */
static const uint64_t *sort_scores(const float *scores, int64_t n, uint64_t *keys, uint64_t *scratch)
{
    for (int64_t i = 0; i < n; i++) {
        const float score = scores ? scores[i] : 0;
        keys[i] = make_key(isnan(score) ? -INFINITY : score, i);
    }
    sort_keys(&keys, &scratch, n, VALUE_DIGIT); /* positions rise already */
    return keys;
}

/* Bins */

static double get_longer_side(Box box) { return larger(box.x2 - box.x1, box.y2 - box.y1); }

static double get_centre_x(Box box) { return ((double)box.x1 + box.x2) / 2; }
static double get_centre_y(Box box) { return ((double)box.y1 + box.y2) / 2; }

/* The cells of an octave are this long: more than the sides of its boxes. */
static double get_cells_per_px(int octave) { return ldexp(1.0, -(octave + 1)); }

static int64_t find_cell(double centre, double cells_per_px) { return (int64_t)floor(centre * cells_per_px); }

static int64_t get_group(const Task *task, int64_t index) { return task->groups ? task->groups[index] : 0; }

static int64_t find_bin(const Store *store, int64_t group, int octave, int64_t x, int64_t y)
{
    uint64_t hash = (uint64_t)group * 0x9e3779b97f4a7c15u + (uint64_t)octave;
    hash = (hash ^ hash >> 32) * 0xd6e8feb86659fd93u + (uint64_t)x;
    hash = (hash ^ hash >> 32) * 0xd6e8feb86659fd93u + (uint64_t)y;
    hash = (hash ^ hash >> 32) * 0xd6e8feb86659fd93u;
    return (int64_t)((hash ^ hash >> 32) & store->mask);
}

/* The bin that a box would be kept in. */
static int64_t choose_bin(const Task *task, const Store *store, int64_t index)
{
    const Box box = read_box(task->boxes, index);
    if (task->likeness == 0 || is_idle(compute_area(box)))
        return find_bin(store, get_group(task, index), 0, 0, 0);
    const int octave = ilogb(get_longer_side(box));
    const double cells_per_px = get_cells_per_px(octave);
    const int64_t x = find_cell(get_centre_x(box), cells_per_px), y = find_cell(get_centre_y(box), cells_per_px);
    return find_bin(store, get_group(task, index), octave, x, y);
}

static void keep_box(const Task *task, Store *store, int64_t index)
{
    const Box box = read_box(task->boxes, index);
    if (is_idle(compute_area(box)))
        return;
    const int64_t bin = store->bins ? store->bins[index] : 0, slot = store->starts[bin] + store->fills[bin]++;
    put_box(&store->kept, slot, box);
    store->indices[slot] = index;
    store->octaves[ilogb(get_longer_side(box)) - MIN_OCTAVE]++;
}

/* Decisions */

static int is_suppressed_in_bin(const Task *task, const Store *store, int64_t bin, int64_t index, Box box)
{
    const float area = compute_area(box);
    const int64_t last = store->starts[bin] + store->fills[bin];
    int64_t slot = store->starts[bin];
    while ((slot = find_overlap[task->variant](&store->kept, slot, last, box, area, task->low)) < last) {
        for (const int64_t end = slot + LANES < last ? slot + LANES : last; slot < end; slot++)
            if (compute_iou(box, area, get_box(&store->kept, slot), store->kept.areas[slot]) > task->threshold &&
                get_group(task, store->indices[slot]) == get_group(task, index))
                return 1;
    }
    return 0;
}

/* How far apart along one axis the centres can be, px, if one box is `side` long and the other at most `longest`.
   Both share (side + other) / 2 - distance at most, and `likeness` of the longer at least. */
static double get_reach(double side, double longest, double likeness)
{
    const double shorter = fmin(side, longest), longer = fmin(side / likeness, longest);
    const double reach = (side + shorter) / 2 - likeness * side;
    return fmax(reach, (side + longer) / 2 - likeness * fmax(side, longer)) + SLACK * side;
}

static int is_suppressed(const Task *task, const Store *store, int64_t index)
{
    const Box box = read_box(task->boxes, index);
    if (is_idle(compute_area(box)))
        return 0;
    const int64_t own = store->bins ? store->bins[index] : 0;
    if (is_suppressed_in_bin(task, store, own, index, box)) /* the likeliest first */
        return 1;
    if (!store->bins || task->likeness == 0)
        return 0;
    const double width = box.x2 - box.x1, height = box.y2 - box.y1, side = get_longer_side(box);
    const double x = get_centre_x(box), y = get_centre_y(box);
    const int last_octave = (int)fmin(ilogb(side / task->likeness), MAX_OCTAVE);
    for (int octave = (int)fmax(ilogb(side * task->likeness), MIN_OCTAVE); octave <= last_octave; octave++) {
        if (store->octaves[octave - MIN_OCTAVE] == 0)
            continue;
        const double cells_per_px = get_cells_per_px(octave);
        const double reach_x = get_reach(width, 1 / cells_per_px, task->likeness);
        const double reach_y = get_reach(height, 1 / cells_per_px, task->likeness);
        const int64_t last_column = find_cell(x + reach_x, cells_per_px);
        const int64_t last_row = find_cell(y + reach_y, cells_per_px);
        for (int64_t row = find_cell(y - reach_y, cells_per_px); row <= last_row; row++)
            for (int64_t column = find_cell(x - reach_x, cells_per_px); column <= last_column; column++) {
                const int64_t bin = find_bin(store, get_group(task, index), octave, column, row);
                if (bin != own && store->fills[bin] && is_suppressed_in_bin(task, store, bin, index, box))
                    return 1;
            }
    }
    return 0;
}

/* Memory */

/* Everything of a store with room for so many boxes, in one block; returns the size of this in bytes. */
static size_t carve_store(Store *store, int64_t room, int64_t num_binned, char *memory)
{
    const int64_t num_bins = (int64_t)store->mask + 1;
    size_t used = 0;
    store->kept = carve_columns(memory, &used, room + LANES);
    store->indices = carve(memory, &used, room, sizeof(int64_t));
    store->starts = carve(memory, &used, num_bins, sizeof(int64_t));
    store->fills = carve(memory, &used, num_bins, sizeof(int64_t));
    store->bins = num_binned ? carve(memory, &used, num_binned, sizeof(int32_t)) : NULL;
    store->memory = memory;
    return used;
}

/* A store with one bin, for so many boxes. Returns 0, or ERROR_MEMORY. */
static int open_store(Store *store, int64_t room)
{
    *store = (Store){0};
    carve_store(store, room, 0, calloc(1, carve_store(store, room, 0, NULL)));
    return store->memory ? 0 : ERROR_MEMORY;
}

/* A store with bins in place of another, with the boxes that it kept. Returns 0, or ERROR_MEMORY. */
static int open_bins(const Task *task, Store *store, const int64_t *kept, int64_t count)
{
    free(store->memory);
    *store = (Store){0};
    while ((int64_t)store->mask + 1 < task->n)
        store->mask = 2 * store->mask + 1;
    carve_store(store, task->n, task->n, calloc(1, carve_store(store, task->n, task->n, NULL)));
    if (!store->memory)
        return ERROR_MEMORY;
    for (int64_t i = 0; i < task->n; i++) {
        store->bins[i] = (int32_t)choose_bin(task, store, i);
        store->starts[store->bins[i]]++;
    }
    int64_t sum = 0;
    for (uint64_t bin = 0; bin <= store->mask; bin++) {
        const int64_t size = store->starts[bin];
        store->starts[bin] = sum;
        sum += size;
    }
    for (int64_t i = 0; i < count; i++)
        keep_box(task, store, kept[i]);
    return 0;
}

/* Decide candidates one after the other. Returns how many were kept, or ERROR_MEMORY. */
static int64_t suppress(const Task *task, const uint64_t *sorted, Store *store, int64_t *kept)
{
    const int has_bins = task->likeness > 0 || task->groups;
    if (open_store(store, has_bins && task->n > FEW ? FEW : task->n))
        return ERROR_MEMORY;
    int64_t count = 0;
    for (int64_t i = 0; i < task->n; i++) {
        if (count == FEW && has_bins && !store->bins && open_bins(task, store, kept, count))
            return ERROR_MEMORY;
        const int64_t index = get_position(sorted[i]);
        if (!is_suppressed(task, store, index)) {
            keep_box(task, store, index);
            kept[count++] = index;
        }
    }
    return count;
}

/* The boxes that nothing better of their group suppresses, best first.

   boxes is (n, 4), 0 < n < 2^31; scores (n,), or NULL where the boxes come best first; groups (n,) or NULL. kept has
   room for n positions. Returns how many there are, or ERROR_MEMORY. */
EXPORT int64_t objectness_nms(int variant, const float *boxes, const float *scores, const int64_t *groups, int64_t n,
                              float threshold, int64_t *kept)
{
    const Task task = {
        .boxes = boxes,
        .groups = groups,
        .n = n,
        .threshold = threshold,
        .low = (float)(threshold * (1 - SLACK)),
        .likeness = threshold >= LOW_THRESHOLD ? threshold * (1 - SLACK) : 0,
        .variant = variant,
    };
    uint64_t *keys = malloc(2 * (size_t)n * sizeof *keys);
    if (!keys)
        return ERROR_MEMORY;
    Store store;
    const int64_t count = suppress(&task, sort_scores(scores, n, keys, keys + n), &store, kept);
    free(store.memory);
    free(keys);
    return count;
}
