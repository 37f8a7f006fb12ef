"""What a model's matrices are given and how much their outputs matter, measured by running it over text.

Layer by layer in torch: one layer's weights in memory, the states between layers on disk. `skeleton` makes the model
without weights and fills a layer of it from a plan, `recording` sums up what goes through its matrices, `layerwise`
runs it, `naming` says the sums by the names of GGUF, and `requant.statistics` is what comes out.
"""
