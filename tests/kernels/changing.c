/* Suppression of boxes that another thread writes into, for test_nms_kernel.py: every time that the kernel reads a box
   it is another one. Built with sanitizers, which end the program if such a value becomes an index that is not checked.
   Its argument is the variant (native.h). */

#include "boxes.h"

static Box read_changing_box(const float *boxes, int64_t index);
#define read_box read_changing_box
#include "nms.c"
#undef read_box

#include <stdio.h>

enum { NUM_BOXES = 3000 };

static uint64_t state = 1;

static uint32_t draw(uint32_t count)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % count;
}

/* Often the box that is there, otherwise one without area, too large, infinite or not a number. */
static Box read_changing_box(const float *boxes, int64_t index)
{
    const Box box = read_box(boxes, index);
    switch (draw(8)) {
    case 0: return (Box){0, 0, 0, 0};
    case 1: return (Box){NAN, NAN, NAN, NAN};
    case 2: return (Box){-INFINITY, box.y1, INFINITY, box.y2};
    case 3: return (Box){-3e38f, -1e-20f, 3e38f, 1e-20f};
    case 4: return (Box){box.x1, box.y1, box.x1 + 1e-22f, box.y1 + 1e-22f};
    default: return box;
    }
}

int main(int count, char **words)
{
    static float boxes[4 * NUM_BOXES], scores[NUM_BOXES];
    static int64_t groups[NUM_BOXES], kept[NUM_BOXES];
    const int variant = count > 1 ? atoi(words[1]) : 0;
    for (int i = 0; i < NUM_BOXES; i++) {
        const float x = (float)draw(2000), y = (float)draw(2000);
        const float box[] = {x, y, x + (float)(1 + draw(60)), y + (float)(1 + draw(60))};
        memcpy(boxes + 4 * i, box, sizeof box);
        scores[i] = (float)draw(1000);
        groups[i] = draw(2);
    }
    for (int round = 0; round < 20; round++) {
        const int64_t number = objectness_nms(variant, boxes, scores, round % 2 ? groups : NULL, NUM_BOXES,
                                              round % 3 ? 0.5f : 0.0f, kept);
        if (number <= 0 || number > NUM_BOXES)
            return 1;
        printf("%d\n", (int)number);
    }
    return 0;
}
