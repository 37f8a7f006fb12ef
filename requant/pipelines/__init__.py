"""Several commands as one: a recipe of stages, each a plan, joined without files between them where that can be.

`recipe` reads it, `flow` is what goes from stage to stage, `stages` are what a stage can be, `work` keeps what was
measured and knows what was done, `made` plans and carries out.
"""
