/* The loop of nms.c that the compiler turns into vector code; see each_variant.h. */

/* The first of the slots first, first + LANES, ... at which, or at one of the next LANES - 1, a box is kept that may
   overlap beyond the threshold; `last` or more where there is none. Multiplies, where the decision itself divides. */
static int64_t NAME(find_overlap)(const Columns *kept, int64_t first, int64_t last, Box box, float area,
                                  float low)
{
    int64_t start = first;
    for (; start < last; start += LANES) {
        const Columns columns = skip_boxes(kept, start);
        int any = 0;
        for (int i = 0; i < LANES; i++) {
            const Box other = get_box(&columns, i);
            const float width = larger(smaller(box.x2, other.x2) - larger(box.x1, other.x1), 0);
            const float intersection = width * (smaller(box.y2, other.y2) - larger(box.y1, other.y1));
            any |= (intersection > 0) & (intersection >= low * (area + columns.areas[i] - intersection));
        }
        if (any)
            break;
    }
    return start;
}
