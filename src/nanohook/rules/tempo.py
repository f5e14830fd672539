"""How slow a body on its way in may be, that of an upload or of a download: one rule for both; it has no clock."""

from nanohook.values import frozen


@frozen
class Tempo:
    """How slow a body may be. Source: CONTRACT section 5, "upload and download"."""

    silence_s: float = 15.0
    """Without a byte: until it begins, and between two pieces of it."""
    min_bytes_s: int = 16_000
    """On average over ``window_s``."""
    window_s: float = 30.0
    total_s: float = 15 * 60.0
    """For all of it; a download's redirects included."""


class Watch:
    """
    Says when a body on its way has become too slow.

    Args:
        tempo: The limits.
        now_s: Of a monotonic clock, like every other ``now_s`` here.
    """

    def __init__(self, tempo: Tempo, *, now_s: float) -> None:
        self._tempo = tempo
        self._began_s = self._last_s = now_s
        self._window_began_s: float | None = None
        self._window_bytes = 0

    @property
    def ends_at_s(self) -> float:
        """When it is too slow if nothing more comes."""
        return self._end()[0]

    @property
    def verdict(self) -> str:
        """Why it ends then."""
        return self._end()[1]

    def begun(self, *, now_s: float) -> None:
        """Note that the body begins: from now on it has a rate."""
        self._last_s = self._window_began_s = now_s
        self._window_bytes = 0

    def received(self, size_bytes: int, *, now_s: float) -> None:
        """Note a piece of the body; an empty one is none."""
        if not size_bytes:
            return
        self._last_s = now_s
        self._window_bytes += size_bytes
        if self._window_began_s is not None and now_s >= self._window_began_s + self._tempo.window_s:
            # It had brought enough, or would have ended: the next one begins.
            self._window_began_s, self._window_bytes = now_s, size_bytes

    def _end(self) -> tuple[float, str]:
        tempo = self._tempo
        ends = [
            (self._last_s + tempo.silence_s, f"no byte for {tempo.silence_s:g} s"),
            (self._began_s + tempo.total_s, f"not all of it within {tempo.total_s:g} s"),
        ]
        if self._window_began_s is not None and self._window_bytes < tempo.min_bytes_s * tempo.window_s:
            rate = f"less than {tempo.min_bytes_s:,} bytes a second over {tempo.window_s:g} s"
            ends.append((self._window_began_s + tempo.window_s, rate))
        return min(ends)
