"""Images with boxes: read, checked, and made into training examples."""
