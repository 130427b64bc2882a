/* The loop of iou.c that the compiler turns into vector code; see each_variant.h. */

/* One row of the matrix: the IoU of a box with each of the others. */
static void NAME(fill_row)(const Others *others, int count, const float *box, float *restrict ious)
{
    const float x1 = box[0], y1 = box[1], x2 = box[2], y2 = box[3], area = compute_area(box);
    for (int i = 0; i < count; i++) {
        const float width = at_least(smaller(x2, others->x2[i]) - larger(x1, others->x1[i]), 0);
        const float height = at_least(smaller(y2, others->y2[i]) - larger(y1, others->y1[i]), 0);
        const float intersection = width * height;
        ious[i] = intersection / at_least((area + others->areas[i]) - intersection, FLT_MIN);
    }
}
