/* The loops of selection.c that the compiler turns into vector code; see each_variant.h. */

/* out[i] = object[i * stride] - nothing[i * stride], or object[i * stride] alone where `nothing` is NULL. */
static void NAME(fold)(const float *object, const float *nothing, int64_t stride, int64_t count, float *restrict out)
{
    if (stride != 1) {
        for (int64_t i = 0; i < count; i++)
            out[i] = nothing ? object[i * stride] - nothing[i * stride] : object[i * stride];
    } else if (nothing) {
        for (int64_t i = 0; i < count; i++)
            out[i] = object[i] - nothing[i];
    } else {
        memcpy(out, object, (size_t)count * sizeof *out);
    }
}

/* Append the key of every logit of at least `least`, of anchors first, first + step, ...; return how many. NaN is none.
   Most blocks hold nothing and are left after one comparison of the whole block. `keys` has room for count + 1. */
static int64_t NAME(collect)(const float *logits, int64_t count, float least, int64_t first, int64_t step,
                             uint64_t *restrict keys)
{
    int64_t found = 0;
    for (int64_t start = 0; start < count; start += BLOCK) {
        const float *block = logits + start;
        int any = 0;
        for (int i = 0; i < BLOCK; i++)
            any |= block[i] >= least;
        if (!any)
            continue;
        for (int64_t i = start; i < start + BLOCK && i < count; i++) {
            keys[found] = make_key(logits[i], first + i * step);
            found += logits[i] >= least;
        }
    }
    return found;
}

/* Whether the IoU of a box with one of those kept exceeds the threshold; with the arithmetic of boxes.compute_iou. */
static int NAME(is_suppressed)(const Kept *kept, Box box, float nms_iou)
{
    const float area = compute_area(box);
    for (int64_t start = 0; start < kept->count; start += BLOCK) {
        const Columns columns = skip_boxes(&kept->boxes, start);
        int any = 0;
        for (int i = 0; i < BLOCK; i++)
            any |= compute_iou(box, area, get_box(&columns, i), columns.areas[i]) > nms_iou;
        if (any)
            return 1;
    }
    return 0;
}
