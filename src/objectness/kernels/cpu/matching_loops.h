/* The loops of matching.c that the compiler turns into vector code; see each_variant.h. All of them go over whole
   blocks of LANES: what they are given has room for it. */

/* How wide the anchors of a shape are at `count` columns from `first` on, and how wide they overlap a box. */
static void NAME(measure_columns)(int first, int count, float stride, const float *shape, const float *box,
                                  float *restrict widths, float *restrict overlaps)
{
    const float left = shape[0], right = shape[2], box_left = box[0], box_right = box[2];
    for (int i = 0; i < count; i++) {
        const float x = (float)(first + i) * stride, x1 = x + left, x2 = x + right;
        widths[i] = at_least(x2 - x1, 0);
        overlaps[i] = at_least(smaller(box_right, x2) - larger(box_left, x1), 0);
    }
}

/* The IoUs of a row of anchors with a box of this area; returns whether one reaches `least`. */
static int NAME(measure_row)(const float *widths, const float *overlaps, int count, float height, float overlap,
                             float area, float least, float *restrict ious)
{
    int any = 0;
    for (int i = 0; i < count; i++) {
        const float intersection = overlaps[i] * overlap;
        ious[i] = intersection / at_least((area + widths[i] * height) - intersection, FLT_MIN);
        any |= ious[i] >= least;
    }
    return any;
}

/* Which anchors of a row have more than a share of their area inside a crowd region: 1 or 0. */
static void NAME(find_crowded)(const float *widths, const float *overlaps, int count, float height, float overlap,
                               float share, int32_t *restrict crowded)
{
    for (int i = 0; i < count; i++)
        crowded[i] = overlaps[i] * overlap > share * (widths[i] * height);
}

/* The first block, from `block` on, with a box whose IoU with the anchor exceeds `best`, and its IoUs; or `last`. */
static const Block *NAME(find_better)(const Block *block, const Block *last, const float *anchor, float best,
                                      float *restrict ious)
{
    const float x1 = anchor[0], y1 = anchor[1], x2 = anchor[2], y2 = anchor[3], area = compute_area(anchor);
    for (; block < last; block++) {
        int any = 0;
        for (int i = 0; i < LANES; i++) {
            const float width = at_least(smaller(block->x2[i], x2) - larger(block->x1[i], x1), 0);
            const float height = at_least(smaller(block->y2[i], y2) - larger(block->y1[i], y1), 0);
            const float intersection = width * height;
            ious[i] = intersection / at_least((block->areas[i] + area) - intersection, FLT_MIN);
            any |= ious[i] > best;
        }
        if (any)
            break;
    }
    return block;
}
