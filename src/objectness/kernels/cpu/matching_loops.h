/* The loops of matching.c that the compiler turns into vector code; see each_variant.h. All of them go over whole
   blocks of LANES: what they are given has room for it. */

/* How wide the anchors of a shape are at `count` columns from `first` on, and how wide they overlap a box. */
static void NAME(measure_columns)(int first, int count, float stride, Box shape, Box box,
                                  float *restrict widths, float *restrict overlaps)
{
    for (int i = 0; i < count; i++) {
        const float x = (float)(first + i) * stride, x1 = x + shape.x1, x2 = x + shape.x2;
        widths[i] = at_least(x2 - x1, 0);
        overlaps[i] = at_least(smaller(box.x2, x2) - larger(box.x1, x1), 0);
    }
}

/* The IoUs of a row of anchors with a box of this area; returns whether one reaches `least`. */
static int NAME(measure_row)(const float *widths, const float *overlaps, int count, float height, float overlap,
                             float area, float least, float *restrict ious)
{
    int any = 0;
    for (int i = 0; i < count; i++) {
        ious[i] = divide_by_union(overlaps[i] * overlap, area, widths[i] * height);
        any |= ious[i] >= least;
    }
    return any;
}

/* Which anchors of a row have more than a share of their area inside a region, or at least an IoU with it: 1 or 0. */
static void NAME(find_ignored)(const float *widths, const float *overlaps, int count, float height, float overlap,
                               float area, float share, float least, int32_t *restrict ignored)
{
    for (int i = 0; i < count; i++) {
        const float intersection = overlaps[i] * overlap, own = widths[i] * height;
        ignored[i] = (intersection > share * own) | (divide_by_union(intersection, area, own) >= least);
    }
}

/* The first of the boxes first, first + LANES, ... where it, or one of the next LANES - 1, has an IoU with the anchor
   beyond `best`, and the IoUs of these LANES; `last` or more where there is none. */
static int64_t NAME(find_better)(const Columns *boxes, int64_t first, int64_t last, Box anchor, float best,
                                 float *restrict ious)
{
    const float area = compute_area(anchor);
    int64_t start = first;
    for (; start < last; start += LANES) {
        const Columns columns = skip_boxes(boxes, start);
        int any = 0;
        for (int i = 0; i < LANES; i++) {
            ious[i] = compute_iou(get_box(&columns, i), columns.areas[i], anchor, area);
            any |= ious[i] > best;
        }
        if (any)
            break;
    }
    return start;
}
