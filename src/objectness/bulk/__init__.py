"""Many files at once: proposals for all of them, and runs that go on where they were stopped."""
