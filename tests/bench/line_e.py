from tests.bench.report import Run


def measure(run: Run) -> None: ...
