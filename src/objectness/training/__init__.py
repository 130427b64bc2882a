"""Training: the loop over steps, what each step sees, and what a run leaves behind."""
