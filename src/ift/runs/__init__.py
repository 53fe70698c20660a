"""One run: its arguments, its processes, its folder, its progress, what was saved read back."""
