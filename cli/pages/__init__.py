"""`--html`: the document of a command as one page, which asks no network for anything (docs/pages.md)."""
