"""Model families: HF and ggml names, row orders and hyperparameters, as invertible data."""
