"""Pure functions on tensors: boxes and anchors, labels and losses, selection, suppression and RoIAlign."""
