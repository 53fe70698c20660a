"""The label of a token that is not trained, as in transformers and PyTorch."""

IGNORED = -100
