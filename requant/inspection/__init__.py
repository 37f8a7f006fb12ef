"""What is to be known of a model that nobody converts: its numbers, its tokenizer, what it takes to run it."""
