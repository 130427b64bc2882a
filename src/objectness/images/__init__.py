"""Images: found, read, made into the network's input, and drawn on."""
