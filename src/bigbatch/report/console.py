"""Progress for people: a live line on a terminal and in notebooks, plain lines now and then elsewhere."""

from __future__ import annotations

import importlib.util
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bigbatch.records import Eval, Event, Record, Update
from bigbatch.rules.headline import in_order
from bigbatch.rules.noise_scale import FEWEST
from bigbatch.units import show_seconds

_PLAIN_SECONDS = 10.0
_PLAIN_SHARE = 0.05
_LIVE_SECONDS = 0.1
_RECENT_UPDATES = 20
_SHOWN_METRICS = 4
_QUIET_EVENTS = ("checkpoint", "note", "nothing_to_learn")
"""Routine: shown in the report, but one line every few minutes would bury what matters here."""
# Controls and the characters that reorder text: a label must not be able to move the cursor or forge a line.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(value: object) -> str:
    """The value as one line of text, with control characters spelled out so that they show."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(value))


class ConsoleObserver:
    """Shows a run's records on a rich console. Whatever goes wrong here, the run goes on.

    Args:
        console: where to print; standard error when None, so that standard output stays free for results.
        clock: seconds from any origin; tests bring their own.
    """

    def __init__(
        self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(stderr=True)
        # Where colours are forced on a pipe (a notebook does that to what it starts), there is no cursor to move.
        self._has_cursor = self._console.is_terminal and (console is not None or sys.stderr.isatty())
        self._clock = clock
        self._live: Live | None = None
        self._broken = False
        self._total_updates: int | None = None
        self._total_samples: int | None = None
        self._started = clock()
        self._prepared_at = self._started
        self._shown_at = -float("inf")
        self._shown_share = 0.0
        self._first: Update | None = None
        self._newest: Update | None = None
        self._recent: list[Update] = []
        self._skipped = self._empty = 0
        self._worth = ""
        self._last_eval = ""
        self._evaluated: dict[str, tuple[float, float]] = {}
        """Split -> clock and share of the run when an evaluation of it was shown last."""
        self._chosen: str | None = None
        self._chosen_words = ""

    @property
    def width(self) -> int | None:
        """Letters of a terminal's line; None where lines may have any length."""
        return self._console.width if self._has_cursor else None

    def start(
        self,
        lines: Iterable[str] = (),
        total_updates: int | None = None,
        total_samples: int | None = None,
        chosen: str | None = None,
    ) -> None:
        """Print the plan's summary and start the clock.

        Args:
            lines: printed as they are, one by one.
            total_updates: updates of the whole run, those before a resume included.
            total_samples: samples of the whole run; the remaining time follows from it.
            chosen: the figure that chooses the weights: it is named first.
        """
        self._chosen = chosen
        self._safely(self._start, list(lines), total_updates, total_samples)

    def __call__(self, record: Record) -> None:
        """Show a record; never asks for anything and never raises."""
        self._safely(self._show, record)

    def say(self, text: str) -> None:
        """Print one line: what happens before the first update and after the last."""
        self._safely(self._print, Text(printable(text)))

    def progress(self, name: str, done: int, total: int) -> None:
        """Show how far a preparation is, such as tokenising a split; quick ones print nothing in a log.

        Args:
            name: what is prepared.
            done: rows that are.
            total: all of them.
        """
        self._safely(self._prepare, name, done, total)

    def close(self) -> None:
        """Leave the last state on the screen and give the terminal back. Harmless when called twice."""
        self._safely(self._close)

    def _safely(self, action: Callable[..., None], *arguments: object) -> None:
        """Run one display action; a closed pipe or a terminal that went away only ends the display."""
        if self._broken:
            return
        try:
            action(*arguments)
        except (Exception, SystemExit):  # rich answers a closed pipe with SystemExit
            self._broken = True
            live, self._live = self._live, None
            if live is not None:
                with suppress(Exception, SystemExit):  # the same terminal is gone here too
                    live.stop()

    def _start(self, lines: list[str], total_updates: int | None, total_samples: int | None) -> None:
        self._close()  # a preparation that was left unfinished
        self._total_updates, self._total_samples = total_updates, total_samples
        self._started = self._clock()
        for line in lines:
            self._print(Text(printable(line)))
        if self._has_live():
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._live.start()

    def _prepare(self, name: str, done: int, total: int) -> None:
        words = Text(self._encodable(f"{printable(name)}  {done:,} of {total:,} rows"), no_wrap=True)
        now = self._clock()
        if self._has_live():
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
            if done >= total:
                self._close()
            elif now - self._prepared_at >= _LIVE_SECONDS:
                self._live.update(words, refresh=True)
                self._prepared_at = now
        elif now - self._prepared_at >= _PLAIN_SECONDS:
            self._print(words)
            self._prepared_at = now

    def _has_live(self) -> bool:
        """A terminal, or a notebook that can redraw an output; without ipywidgets rich would only warn."""
        if self._console.is_jupyter:
            return importlib.util.find_spec("ipywidgets") is not None
        return self._has_cursor and not self._console.is_dumb_terminal

    def _show(self, record: Record) -> None:
        if isinstance(record, Update):
            self._take(record)
            self._progress(last=self._share() >= 1)
        elif isinstance(record, Eval):
            self._last_eval = _eval_words(record, self._chosen)
            self._note_chosen(record)
            if self._shows_eval(record.split):
                words = f"update {record.step:,}  {printable(record.split)}  {self._last_eval}"
                self._print(Text(words, style="bold"))
        elif isinstance(record, Event) and record.event not in _QUIET_EVENTS:
            if record.event == "plateau":  # the end has come nearer
                self._total_updates = record.details.get("updates", self._total_updates)
                self._total_samples = record.details.get("samples", self._total_samples)
            elif record.event == "rate_test":  # it took time, and no update of the run
                self._started = self._clock()
            self._print(_event_text(record))

    def _shows_eval(self, split: str) -> bool:
        """The first and the last evaluation of a split, and as many between as there are progress lines."""
        now, share = self._clock(), self._share()
        before = self._evaluated.get(split)
        if before is not None and 0 < share < 1:
            seconds, earlier_share = before
            if now - seconds < _PLAIN_SECONDS and share - earlier_share < _PLAIN_SHARE:
                return False
        self._evaluated[split] = (now, share)
        return True

    def _note_chosen(self, record: Eval) -> None:
        """The figure that chooses the weights, as progress lines have it until the next evaluation."""
        figures = {"loss": record.loss, **record.metrics}
        if self._chosen in figures and record.split == "validation":
            name = "validation loss" if self._chosen == "loss" else printable(self._chosen)
            self._chosen_words = f"{name} {_figure(figures[self._chosen])}"

    def _take(self, update: Update) -> None:
        self._first = self._first or update
        self._newest = update
        self._recent = [*self._recent, update][-_RECENT_UPDATES:]
        self._skipped += update.skipped
        self._empty += update.empty
        self._worth = _worth_words(update.noise) or self._worth

    def _progress(self, *, last: bool) -> None:
        """Redraw or print the state, if it is time to."""
        now, share = self._clock(), self._share()
        if self._live is not None:
            if last or now - self._shown_at >= _LIVE_SECONDS:
                self._live.update(self._live_view(), refresh=True)
                self._shown_at = now
        elif last or now - self._shown_at >= _PLAIN_SECONDS or share - self._shown_share >= _PLAIN_SHARE:
            head = f"{100 * share:3.0f} %  " if share else ""
            self._print(Text(head + self._words()))
            self._shown_at, self._shown_share = now, share

    def _share(self) -> float:
        """Finished part of the run, 0 … 1; 0 when the length is not known."""
        if self._newest is None:
            return 0.0
        if self._total_samples:
            return min(1.0, self._newest.samples / self._total_samples)
        return min(1.0, self._newest.step / self._total_updates) if self._total_updates else 0.0

    def _live_view(self) -> Group:
        """How far, how fast, how well: a line each, cut at the terminal's width rather than wrapped."""
        lines = [Text(self._encodable(self._words()), no_wrap=True, overflow="ellipsis")]
        if self._last_eval:
            words = self._encodable(f"last evaluation  {self._last_eval}")
            lines.append(Text(words, no_wrap=True, overflow="ellipsis"))
        share = self._share()
        if share:
            width = max(10, min(60, self._console.width - 10))
            stroke = self._encodable("━").replace("?", "-")
            bar = Text(stroke * round(width * share), style="cyan", no_wrap=True)
            bar.append(stroke * (width - round(width * share)), style="bright_black")
            lines.insert(0, bar.append(f" {100 * share:3.0f} %", style="default"))
        return Group(*lines)

    def _encodable(self, words: str) -> str:
        """What the console's encoding cannot write becomes a question mark instead of an error."""
        encoding = self._console.encoding
        return words.encode(encoding, "replace").decode(encoding)

    def _words(self) -> str:
        """`update 16/44  loss 0.512  43.1 samples/s  1,467 tokens/s  3 min 02 s left`."""
        update = self._newest
        if update is None:
            return "waiting for the first update"
        total = f"/{self._total_updates:,}" if self._total_updates else ""
        words = [f"update {update.step:,}{total}", f"loss {_figure(update.loss)}"]
        if self._chosen_words:
            words.insert(1, self._chosen_words)
        seconds = sum(one.seconds for one in self._recent)
        if seconds > 0:
            words.append(f"{_rate(sum(one.batch_samples for one in self._recent) / seconds)} samples/s")
            words.append(f"{_rate(sum(one.batch_tokens for one in self._recent) / seconds)} tokens/s")
        if self._worth:
            words.append(self._worth)
        left = self._seconds_left()
        if left is not None:
            words.append(f"{show_seconds(left)} left")
        if self._skipped:
            words.append(f"{self._skipped} skipped")
        if self._empty:
            words.append(f"{self._empty} with nothing to learn from")
        return "  ".join(words)

    def _seconds_left(self) -> float | None:
        """Remaining time, from the wall time of this process: evaluations and checkpoints count too."""
        if self._first is None or self._newest is None or not self._share():
            return None
        elapsed = self._clock() - self._started
        if self._total_samples:
            before = self._first.samples - self._first.batch_samples
            done, missing = self._newest.samples - before, self._total_samples - self._newest.samples
        else:
            done = self._newest.step - self._first.step + 1
            missing = (self._total_updates or 0) - self._newest.step
        return max(0.0, elapsed * missing / done) if done > 0 and elapsed > 0 else None

    def _print(self, text: Text) -> None:
        # Text carries no markup, so brackets in user data are only brackets; soft_wrap keeps log lines whole.
        shown = Text(self._encodable(text.plain), style=text.style)
        self._console.print(shown, soft_wrap=True, highlight=False)

    def _close(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            if self._newest is not None:
                live.update(self._live_view(), refresh=True)
            live.stop()


def _figure(value: float | None) -> str:
    """Four significant digits, as losses and metrics are compared."""
    return "–" if value is None else f"{value:.4g}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _worth_words(noise: Mapping[str, float | None]) -> str:
    """`noise scale 230 samples (180 to 310)`: how large a batch is worth using; empty before enough was measured."""
    if "noise_scale" not in noise or (noise.get("noise_scale_measurements") or 0) < FEWEST:
        return ""
    scale = noise["noise_scale"]
    words = "noise scale " + ("larger than measurable" if scale is None else f"{_figure(scale)} samples")
    low, high = noise.get("noise_scale_low"), noise.get("noise_scale_high")
    if low is None:
        return words
    return f"{words} ({_figure(low)} to {'?' if high is None else _figure(high)})"


def _eval_words(record: Eval, chosen: str | None) -> str:
    figures = {"loss": record.loss, **record.metrics}
    first = [chosen] if chosen in figures else []
    names = list(dict.fromkeys([*first, "loss", *in_order(record.metrics)]))[: _SHOWN_METRICS + 1]
    return "  ".join(f"{printable(name)} {_figure(figures[name])}" for name in names)


def _event_text(record: Event) -> Text:
    did = f": {printable(record.did)}" if record.did else ""
    words = f"update {record.step:,}  {printable(record.event)}: {printable(record.why)}{did}"
    return Text(words, style="yellow")
