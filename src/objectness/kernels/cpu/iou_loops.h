/* The loop of iou.c that the compiler turns into vector code; see each_variant.h. */

/* One row of the matrix: the IoU of a box with each of the others. */
static void NAME(fill_row)(const Columns *others, int count, Box box, float *restrict ious)
{
    const Columns columns = *others;
    const float area = compute_area(box);
    for (int i = 0; i < count; i++)
        ious[i] = compute_iou(box, area, get_box(&columns, i), columns.areas[i]);
}
