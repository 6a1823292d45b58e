"""What services say on their standard error."""


class Log:
    """Takes what the services say, and keeps what no user should ever see."""

    def __init__(self) -> None:
        self._traces: list[str] = []

    def __call__(self, name: str, line: str) -> None:
        """Takes a line of a service's log."""
        if line.startswith("Traceback") or "never retrieved" in line or (self._traces and line[:1] != " "):
            self._traces.append(f"{name}: {line}")

    def traces(self) -> list[str]:
        """First and last lines of the stack traces since the last call."""
        traces, self._traces = self._traces, []
        return traces
