"""How the look-alike behaves: for everybody, and for one task through words in its prompt."""

import dataclasses
import random
import re
from collections.abc import Sequence
from typing import Literal, TypeVar

T = TypeVar("T")
Shape = Literal["a", "b", "auto"]
Accident = Literal["reset", "html"]
Flaw = Literal["half", "broken", "slow", "missing", "forbidden", "empty", "labelled", "packed"]
Dress = Literal["marked", "zipped"]

TROUBLE_REFUSALS = (429, 500)
"""Body codes that ``trouble`` refuses submits with, each its share of them."""

_ACCIDENTS: tuple[Accident, ...] = ("reset", "html")
_FLAWS: tuple[Flaw, ...] = ("half", "broken", "slow", "missing", "forbidden", "empty", "labelled", "packed")
_DRESSES: tuple[Dress, ...] = ("marked", "zipped")
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

    flaw: Flaw | None
    """
    What is wrong with the picture's address. The first time it is asked for, ``half`` ends in the middle,
    ``broken`` is an HTTP 500, ``missing`` a 404, ``forbidden`` a 403 and ``empty`` has no bytes. Always: ``slow``
    drips, ``labelled`` says that it is ``aws-chunked`` and is not, ``packed`` is gzipped and does not say so.
    """

    dress: Dress | None
    """What all JSON about the task comes in: behind a byte order mark, or gzipped."""

    slow_s: float
    """From a slow picture's first byte to its last."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """
    Settings of one look-alike.

    A prompt may override them for its own task: ``[sandbox:fail=400]``, ``[sandbox:drop]``,
    ``[sandbox:duplicate=3]``, ``[sandbox:submit=429]``, ``[sandbox:latency=0.1]``, ``[sandbox:late=2]``,
    ``[sandbox:early]``, ``[sandbox:reset]`` (the connection is closed without an answer after the task was
    accepted), ``[sandbox:html]`` (an HTML 502 after the task was accepted); for the JSON about it
    ``[sandbox:marked]`` (behind a byte order mark), ``[sandbox:zipped]``; and for the picture's address, once:
    ``[sandbox:half]`` (half of it), ``[sandbox:broken]`` (an HTTP 500), ``[sandbox:missing]`` (404),
    ``[sandbox:forbidden]`` (403), ``[sandbox:empty]``; always: ``[sandbox:slow=2]`` (it drips),
    ``[sandbox:labelled]`` (with a wrong ``Content-Encoding``), ``[sandbox:packed]`` (gzipped without one).
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

    slow_s: float = 1.0
    """How long a slow picture takes."""

    trouble: float = 0.0
    """
    Share of the tasks that each fault befalls, one drawn apart from the other, 0 to 1: failed, dropped, called
    back twice, late by ``trouble_late_s``, early; refused with each of ``TROUBLE_REFUSALS``; each accident, each
    flaw, each dress. Of two refusals, accidents, flaws or dresses the first counts.
    """

    trouble_late_s: float = 5.0
    """How late those callbacks come."""

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
            chances: Advanced by the same number of draws for every task, whatever the options, so that a seed
                gives the same fates in the same order.
        """
        fails = chances.random() < max(self.fail_rate, self.trouble)
        drops = chances.random() < max(self.drop, self.trouble)
        twice, late, early = (chances.random() < self.trouble for _ in range(3))
        refused = self._drawn(TROUBLE_REFUSALS, chances)
        refusal = refused if self.fail_submit is None else self.fail_submit
        accident = self._drawn(_ACCIDENTS, chances)
        flaw = self._drawn(_FLAWS, chances)
        dress = self._drawn(_DRESSES, chances)
        said = dict(_DIRECTIVE.findall(prompt))
        return Behaviour(
            latency_s=_number(said, "latency", self.latency_s),
            fail_code=_code(said, "fail", self.fail_code, otherwise=self.fail_code if fails else None),
            submit_code=_code(said, "submit", 500, otherwise=refusal),
            drop="drop" in said or drops,
            duplicate=int(_number(said, "duplicate", max(self.duplicate, twice))),
            late_s=_number(said, "late", max(self.late_s, self.trouble_late_s * late)),
            early="early" in said or self.early or early,
            accident=_said(said, _ACCIDENTS) or accident,
            flaw=_said(said, _FLAWS) or flaw,
            dress=_said(said, _DRESSES) or dress,
            slow_s=_number(said, "slow", self.slow_s),
        )

    def _drawn(self, faults: Sequence[T], chances: random.Random) -> T | None:
        met = [chances.random() < self.trouble for _ in faults]
        return next((fault for fault, is_met in zip(faults, met, strict=True) if is_met), None)


def _said(said: dict[str, str], words: Sequence[T]) -> T | None:
    return next((word for word in words if word in said), None)


def _number(said: dict[str, str], word: str, otherwise: float) -> float:
    return float(said[word]) if said.get(word) else otherwise


def _code(said: dict[str, str], word: str, bare: int, *, otherwise: int | None) -> int | None:
    if word not in said:
        return otherwise
    return int(float(said[word])) if said[word] else bare
