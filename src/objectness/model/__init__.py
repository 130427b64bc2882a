"""nn.Modules, one idea each: bodies, the pyramid on them and the head."""
