"""Every rule of a model's files and of its family, and all that are broken told: what `requant validate` does.

A rule has a name, a severity and a reason (`rules`). Readers object to what breaks theirs (`requant.objections`); what
they leave alone, because they can read it all the same, is looked at here.
"""
