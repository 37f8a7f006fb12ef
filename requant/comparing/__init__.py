"""Two models beside each other, of whatever formats: `requant.operations.compare` puts the parts together.

`words` says both in one naming, by the family's table; `settings`, `vocabulary`, `tensors` and `numbers` then compare
what is said.
"""
