"""`mmsc` as a person runs it, and what all of its commands do alike with what they cannot use."""

from client import cli


def run_mmsc(capfd, *arguments):
    """Runs a command line; gives exit code, output and lines of errors."""
    code = cli.run(arguments)
    output = capfd.readouterr()
    return code, output.out, output.err.splitlines()


def evaluating(capfd, what, folder, result):
    """`mmsc evaluate WHAT FOLDER --json RESULT`, to be run with more arguments and, if told, on other data."""

    def run(*arguments, data=folder):
        return run_mmsc(capfd, "evaluate", what, str(data), "--json", str(result), *arguments)

    return run


def assert_refused(outcome, said):
    """What the user brought cannot be used: one line that says so, no output, and exit code 2."""
    code, out, errors = outcome
    assert (code, out, len(errors)) == (2, "", 1)
    assert errors[0].startswith("mmsc: ")
    assert said in errors[0]


def assert_foreign_file_kept(mmsc, path, *arguments):
    """A file that is no result stays as it is, whatever is asked for."""
    path.write_text('{"my": "diary"}')
    for more in ([], ["--restart"]):
        code, _, errors = mmsc(*arguments, *more)
        assert (code, len(errors)) == (2, 1)
        assert path.read_text() == '{"my": "diary"}'
