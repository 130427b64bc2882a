/* The loop of nms.c that the compiler turns into vector code; see each_variant.h. */

/* The first of the slots first, first + LANES, ... at which, or at one of the next LANES - 1, a box is kept that may
   overlap beyond the threshold; `last` or more where there is none. Multiplies, where the decision itself divides. */
static int64_t NAME(find_overlap)(const Kept *kept, int64_t first, int64_t last, const float *box, float area,
                                  float low)
{
    const float left = box[0], top = box[1], right = box[2], bottom = box[3];
    int64_t start = first;
    for (; start < last; start += LANES) {
        const float *x1 = kept->x1 + start, *y1 = kept->y1 + start, *x2 = kept->x2 + start, *y2 = kept->y2 + start;
        const float *areas = kept->areas + start;
        int any = 0;
        for (int i = 0; i < LANES; i++) {
            const float width = larger(smaller(right, x2[i]) - larger(left, x1[i]), 0);
            const float intersection = width * (smaller(bottom, y2[i]) - larger(top, y1[i]));
            any |= (intersection > 0) & (intersection >= low * (area + areas[i] - intersection));
        }
        if (any)
            break;
    }
    return start;
}
