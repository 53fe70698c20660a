"""A step of training, token by token: what `ift_loss` gives for a few rows, for a terminal and as an HTML page."""
