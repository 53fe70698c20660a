"""Loads models, adapters and tokenizers from a folder or the Hub, and checks them."""
