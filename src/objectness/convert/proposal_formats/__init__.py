"""Other programs' proposal files, a module for each format: read one, write one."""
