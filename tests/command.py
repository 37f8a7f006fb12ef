"""The command line in this process."""

from click.testing import CliRunner, Result

from requant.cli.main import cli


def run(*words: object) -> Result:
    """What `requant WORDS` prints and how it ends; whatever is raised besides is a failure here."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result
