"""Loading models and tokenizers from a folder or the Hub."""
