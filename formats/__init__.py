"""The formats, in the order in which a path is offered to them."""
