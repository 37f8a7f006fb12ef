"""What a user changes in a file or folder without touching its weights: keys, names, templates, tokenizers."""
