"""How the look-alike behaves: for everybody, and for one task through words in its prompt."""

import dataclasses
import random
import re
from typing import Literal

Shape = Literal["a", "b", "auto"]
Accident = Literal["reset", "html"]

_DIRECTIVE = re.compile(r"\[sandbox:([a-z]{1,16})(?:=(\d{1,6}(?:\.\d{1,6})?))?\]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What happens to one task; drawn once, when it is submitted."""

    latency_s: float
    """From the submit to the result."""

    fail_code: int | None
    """The task fails with this code; ``None``: it succeeds."""

    submit_code: int | None
    """The submit is refused with this body code and no task is made."""

    drop: bool
    """No callback is ever sent."""

    duplicate: int
    """How often an acknowledged callback is sent again."""

    late_s: float
    """Between the result and its callback; record-info tells at once."""

    early: bool
    """The callback goes out before the submit is answered."""

    accident: Accident | None
    """What becomes of the submit's answer after the task was accepted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """
    Settings of one look-alike.

    A prompt may override them for its own task: ``[sandbox:fail=400]``, ``[sandbox:drop]``,
    ``[sandbox:duplicate=3]``, ``[sandbox:submit=429]``, ``[sandbox:latency=0.1]``, ``[sandbox:late=2]``,
    ``[sandbox:early]``, ``[sandbox:reset]`` (the connection is closed without an answer after the task was
    accepted), ``[sandbox:html]`` (an HTML 502 after the task was accepted).
    """

    latency_s: float = 2.0
    """From the submit to the result."""

    fail_rate: float = 0.0
    """Share of the tasks that fail, 0 to 1."""

    fail_code: int = 500
    """The code they fail with: 400 (content policy), 500 or 501."""

    fail_submit: int | None = None
    """Refuse every submit with this body code."""

    duplicate: int = 0
    """How often an acknowledged callback is sent again."""

    drop: float = 0.0
    """Share of the tasks whose callback is never sent, 0 to 1."""

    late_s: float = 0.0
    """Between the result and its callback; record-info tells at once."""

    early: bool = False
    """Send the callback before the submit is answered."""

    shape: Shape = "auto"
    """Form of the callback; ``auto``: B for generate-2, A for the others."""

    seed: int | None = None
    """Makes every chance repeatable; task ids stay random, so a restart never repeats one."""

    picture_bytes: bytes | None = dataclasses.field(default=None, repr=False)
    """The result of every task, for benchmarks: nothing is drawn."""

    callback_pause_s: float = 1.0
    """Pause before the first repeat of an unacknowledged callback; doubles with each of the three."""

    callback_timeout_s: float = 15.0
    """How long a receiver has to acknowledge; the vendor's 15."""

    progress: bool = False
    """Send progress callbacks too; the vendor documents none."""

    credit: int = 1000
    """What the account holds at the start."""

    def behaviour(self, prompt: str, *, chances: random.Random) -> Behaviour:
        """
        Decide what happens to the task of *prompt*.

        Args:
            prompt: Searched for ``[sandbox:…]``; otherwise of no effect.
            chances: Advanced by two draws for every task, whatever the options, so that a seed gives the
                same fates in the same order.
        """
        fails = chances.random() < self.fail_rate
        drops = chances.random() < self.drop
        said = dict(_DIRECTIVE.findall(prompt))
        return Behaviour(
            latency_s=_number(said, "latency", self.latency_s),
            fail_code=_code(said, "fail", self.fail_code, otherwise=self.fail_code if fails else None),
            submit_code=_code(said, "submit", 500, otherwise=self.fail_submit),
            drop="drop" in said or drops,
            duplicate=int(_number(said, "duplicate", self.duplicate)),
            late_s=_number(said, "late", self.late_s),
            early="early" in said or self.early,
            accident="reset" if "reset" in said else "html" if "html" in said else None,
        )


def _number(said: dict[str, str], word: str, otherwise: float) -> float:
    return float(said[word]) if said.get(word) else otherwise


def _code(said: dict[str, str], word: str, bare: int, *, otherwise: int | None) -> int | None:
    if word not in said:
        return otherwise
    return int(float(said[word])) if said[word] else bare
