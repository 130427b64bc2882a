/* Calls every kernel on made-up input and prints what it gives, for tests/kernels/portable.py.

   The same program built by any compiler for any processor must print the same: labels, matches and what is kept to the
   digit, coordinates and IoUs to rounding. Its argument is the variant (native.h). */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* As in selection.c. */
typedef struct {
    const float *data;
    int64_t image, channel, row, column;
} Map;

typedef struct {
    Map logits, deltas;
    const float *shapes;
    int64_t height, width;
    float stride_y, stride_x;
} MapLevel;

typedef struct {
    int64_t num_levels, num_shapes, logits_per_anchor, first_level, per_level, keep;
    float nms_iou, min_visible, min_size, min_log_scale, max_log_scale;
    const float *log_sizes, *log_ratios;
} SelectOptions;

/* As in matching.c. */
typedef struct {
    const float *shapes;
    int64_t height, width;
    float stride_y, stride_x;
} GridLevel;

typedef struct {
    int64_t num_levels, num_shapes;
    float positive_iou, negative_iou, crowd_share;
} MatchOptions;

int objectness_abi(void);
int objectness_best_variant(void);
void objectness_iou(int, const float *, int64_t, const float *, int64_t, float *);
int64_t objectness_nms(int, const float *, const float *, const int64_t *, int64_t, float, int64_t *);
int64_t objectness_match(int, const MatchOptions *, const GridLevel *, const float *, int64_t, const float *, int64_t,
                         int8_t *, int64_t *, float *);
int64_t objectness_select(int, const SelectOptions *, const MapLevel *, int64_t, float, float, float *, float *,
                          int64_t *);

enum {
    NUM_LEVELS = 3,
    NUM_SHAPES = 3,
    HEIGHT = 320,
    WIDTH = 448,
    FINEST = 8, /* stride, px */
    MOST = HEIGHT / FINEST * WIDTH / FINEST * NUM_SHAPES * 2,
    NUM_BOXES = 3000,
    NUM_TRUE = 60,
    KEEP = 500,
};

static const float RATIOS[NUM_SHAPES] = {0.5f, 1, 2};

/* In [0, 1), the same numbers everywhere: a linear congruential generator's high bits. */
static float draw(void)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 40) / (float)(1 << 24);
}

static void fill_boxes(float *boxes, int count)
{
    for (float *box = boxes; box < boxes + 4 * count; box += 4) {
        const float x = draw() * WIDTH, y = draw() * HEIGHT, side = 4 + 120 * draw() * draw();
        box[0] = x - side * (0.5f + draw());
        box[1] = y - side * (0.5f + draw());
        box[2] = x + side;
        box[3] = y + side;
    }
}

/* (A, 4) around the origin, for anchors of a level; 4 strides long. */
static void fill_shapes(float *shapes, int stride)
{
    for (int i = 0; i < NUM_SHAPES; i++) {
        const float width = 4 * stride / sqrtf(RATIOS[i]), height = 4 * stride * sqrtf(RATIOS[i]);
        const float shape[4] = {-width / 2, -height / 2, width / 2, height / 2};
        for (int j = 0; j < 4; j++)
            shapes[4 * i + j] = shape[j];
    }
}

static void print_iou_and_nms(int variant)
{
    static float boxes[4 * NUM_BOXES], scores[NUM_BOXES], ious[100 * 100];
    static int64_t groups[NUM_BOXES], kept[NUM_BOXES];
    fill_boxes(boxes, NUM_BOXES);
    for (int i = 0; i < NUM_BOXES; i++) {
        scores[i] = floorf(draw() * 500); /* with ties */
        groups[i] = i % 3;
    }
    objectness_iou(variant, boxes, 100, boxes + 400, 100, ious);
    printf("iou");
    for (int i = 0; i < 100 * 100; i++)
        printf(" %.6f", (double)ious[i]);
    for (int round = 0; round < 4; round++) {
        const int64_t *group = round % 2 ? groups : NULL;
        const int64_t count = objectness_nms(variant, boxes, scores, group, NUM_BOXES, round < 2 ? 0.3f : 0.7f, kept);
        printf("\nnms");
        for (int64_t i = 0; i < count; i++)
            printf(" %lld", (long long)kept[i]);
    }
}

static void print_matches(int variant)
{
    static float shapes[NUM_LEVELS][4 * NUM_SHAPES], boxes[4 * NUM_TRUE], crowds[4 * 2], ious[2 * MOST];
    static int8_t labels[2 * MOST];
    static int64_t matched[2 * MOST];
    GridLevel levels[NUM_LEVELS];
    int64_t total = 0;
    for (int i = 0; i < NUM_LEVELS; i++) {
        const int stride = FINEST << i;
        fill_shapes(shapes[i], stride);
        levels[i] = (GridLevel){shapes[i], HEIGHT / stride, WIDTH / stride, (float)stride, (float)stride};
        total += levels[i].height * levels[i].width * NUM_SHAPES;
    }
    fill_boxes(boxes, NUM_TRUE);
    fill_boxes(crowds, 2);
    const MatchOptions options = {NUM_LEVELS, NUM_SHAPES, 0.7f, 0.3f, 0.7f};
    objectness_match(variant, &options, levels, boxes, NUM_TRUE, crowds, 2, labels, matched, ious);
    printf("\nlabels");
    for (int64_t i = 0; i < total; i++)
        printf(" %d", labels[i]);
    printf("\nmatched");
    for (int64_t i = 0; i < total; i++)
        if (labels[i] == 1)
            printf(" %lld", (long long)matched[i]);
}

static void print_selection(int variant, int logits_per_anchor, float min_visible)
{
    static float logits[NUM_LEVELS][MOST], deltas[NUM_LEVELS][4 * MOST], shapes[NUM_LEVELS][4 * NUM_SHAPES];
    static float boxes[4 * KEEP], scores[KEEP];
    static int64_t numbers[KEEP];
    MapLevel levels[NUM_LEVELS];
    for (int i = 0; i < NUM_LEVELS; i++) {
        const int stride = FINEST << i, height = HEIGHT / stride, width = WIDTH / stride, cells = height * width;
        fill_shapes(shapes[i], stride);
        for (int j = 0; j < cells * NUM_SHAPES * logits_per_anchor; j++)
            logits[i][j] = j % 97 == 0 ? NAN : floorf(40 * draw()) / 8; /* with ties */
        for (int j = 0; j < cells * NUM_SHAPES * 4; j++)
            deltas[i][j] = draw() - 0.5f;
        levels[i] = (MapLevel){{logits[i], 0, cells, width, 1}, {deltas[i], 0, cells, width, 1}, shapes[i],
                               height, width, (float)stride, (float)stride};
    }
    const SelectOptions options = {NUM_LEVELS, NUM_SHAPES,  logits_per_anchor, 2,    400,  KEEP, 0.7f,
                                   min_visible, 1, -4.135167f, 4.135167f,      NULL, NULL};
    const int64_t count = objectness_select(variant, &options, levels, 0, HEIGHT, WIDTH, boxes, scores, numbers);
    printf("\nselected");
    for (int64_t i = 0; i < count; i++)
        printf(" %lld", (long long)numbers[i]);
    printf("\nboxes");
    for (int64_t i = 0; i < 4 * count; i++)
        printf(" %.4f", (double)boxes[i]);
}

int main(int count, char **words)
{
    const int variant = count > 1 ? atoi(words[1]) : objectness_best_variant();
    printf("abi %d\n", objectness_abi());
    print_iou_and_nms(variant);
    print_matches(variant);
    print_selection(variant, 1, 0);
    print_selection(variant, 2, 1);
    printf("\n");
    return 0;
}
