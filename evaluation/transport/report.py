"""Rows to tables and checks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean
from typing import Final

from rich.table import Table

from evaluation.bench.checks import Check
from evaluation.transport.experiment import Row
from evaluation.transport.scenarios import LEAST_PERCENT, LOSS_BARS_DB, LOSS_CASES

RATE_BAR: Final = 1.02
MET_BAR: Final = 0.99
ORACLE_BAR: Final = 0.9

_ALL: Final = "all traces"

_Pick = Callable[[Row], bool]


def _closed(row: Row) -> bool:
    return row.closed_loop


def _open(row: Row) -> bool:
    return not row.closed_loop


def _cold(row: Row) -> bool:
    return row.closed_loop and row.number == 0


def _warm(row: Row) -> bool:
    return row.closed_loop and row.number > 0


def _picked(rows: Iterable[Row], pick: _Pick) -> list[Row]:
    return [row for row in rows if pick(row)]


def _cases(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.case for row in rows))


def _share(rows: Sequence[Row], is_so: Callable[[Row], bool]) -> float:
    return fmean(is_so(row) for row in rows)


def _met(row: Row) -> bool:
    return row.met


def _pictured(row: Row) -> bool:
    return row.pictured


def of_kind(rows: Iterable[Row], kind: str, *, synthetic: bool) -> list[Row]:
    """The rows of a kind, in an order that does not depend on who was faster."""
    found = [row for row in rows if row.kind == kind and row.synthetic == synthetic]
    return sorted(found, key=lambda row: (row.place, row.deadline_s or 0, row.budget_bytes, row.photo, row.start_s))


# ---- time of delivery ------------------------------------------------------------------------------


def rate_checks(rows: Sequence[Row]) -> Iterator[Check]:
    """Time to deliver B bytes over B / rate, and how much of the budget was used."""
    for case in _cases(rows):
        for name, pick in (("cold", _cold), ("warm", _warm), ("no feedback", _open)):
            found = [row for row in rows if row.case == case and pick(row)]
            ratio = fmean(row.delivery_ratio for row in found)
            used = fmean(row.sent_bytes / row.budget_bytes for row in found)
            bar = "" if name == "no feedback" else f"<= {RATE_BAR}"
            yield Check(f"{case}, {name}: time of delivery over B / rate", ratio, "", bar, ratio <= RATE_BAR)
            yield Check(f"{case}, {name}: of the budget sent", 100 * used, "%", "", True)


# ---- deadlines -------------------------------------------------------------------------------------


def possible(rows: Iterable[Row]) -> list[Row]:
    """Those of which the link could have brought a picture worth the name by the deadline."""
    return [row for row in rows if row.oracle_db is not None and row.deliverable_percent >= LEAST_PERCENT]


def of_oracle(rows: Iterable[Row]) -> float:
    """Mean over the transmissions of the region's PSNR at the deadline over that of the oracle."""
    return fmean(row.masked_db / row.oracle_db for row in rows if row.oracle_db)


def deadline_table(rows: Sequence[Row], of_what: str) -> Table:
    """Side by side: with feedback and without, for each trace and deadline."""
    title = f"Deadlines of {of_what} (with feedback / without), where the link could bring {LEAST_PERCENT:g} % of raw"
    table = Table(title=title)
    names = ("trace", "deadline s", "n", "left out", "mean bytes", "met %", "picture %", "late bytes", "dB",
             "oracle dB", "of oracle %", "bytes used %", "plans")  # fmt: skip
    for name in names:
        table.add_column(name, justify="left" if name == "trace" else "right")
    for case in _cases(rows):
        for deadline_s in sorted({row.deadline_s for row in rows if row.case == case and row.deadline_s}):
            these = [row for row in rows if row.case == case and row.deadline_s == deadline_s]
            if possible(these):
                table.add_row(case, f"{deadline_s:g}", *_deadline_cells(these))
    return table


def _deadline_cells(rows: Sequence[Row]) -> list[str]:
    sides = [_picked(possible(rows), pick) for pick in (_closed, _open)]
    listening = sides[0]

    def both(figure: Callable[[Sequence[Row]], float], form: str) -> str:
        return " / ".join(format(figure(side), form) for side in sides)

    return [
        str(len(listening)),
        str(len(_picked(rows, _closed)) - len(listening)),
        f"{fmean(row.deliverable_bytes for row in listening):,.0f}",
        both(lambda side: 100 * _share(side, _met), ".1f"),
        both(lambda side: 100 * _share(side, _pictured), ".1f"),
        both(lambda side: fmean(row.late_bytes for row in side), ",.0f"),
        both(lambda side: fmean(row.masked_db for row in side), ".2f"),
        f"{fmean(row.oracle_db or 0 for row in listening):.2f}",
        both(lambda side: 100 * of_oracle(side), ".1f"),
        both(lambda side: 100 * _used(side), ".0f"),
        f"{fmean(row.revisions for row in listening):.2f}",
    ]


def _used(rows: Sequence[Row]) -> float:
    return sum(row.arrived_bytes for row in rows) / sum(row.deliverable_bytes for row in rows)


def _of_trace(rows: Sequence[Row], case: str) -> list[Row]:
    return possible(row for row in rows if case in {row.case, _ALL})


def met_checks(rows: Sequence[Row]) -> Iterator[Check]:
    """Deadlines met, for each trace and over all of them."""
    for case in (*_cases(rows), _ALL):
        these = _of_trace(rows, case)
        for name, pick in (("first of its process", _cold), ("later", _warm), ("in all", _closed)):
            side = _picked(these, pick)
            met, pictured = _share(side, _met), _share(side, _pictured)
            bar = f">= {100 * MET_BAR:g}" if name == "in all" else ""
            yield Check(f"{case}: deadlines met, {name}, of {len(side)}", 100 * met, "%", bar, met >= MET_BAR)
            yield Check(f"{case}: a picture at the deadline, {name}", 100 * pictured, "%", "", True)
        closed, without = ([not row.met for row in _picked(these, pick)] for pick in (_closed, _open))
        bar = f"< {sum(without)} without feedback"
        yield Check(f"{case}: missed, of {len(closed)}", sum(closed), "", bar, sum(closed) < sum(without))


def quality_checks(rows: Sequence[Row]) -> Iterator[Check]:
    """PSNR at the deadline beside the oracle's and that of the open loop, likewise."""
    for case in (*_cases(rows), _ALL):
        these = _of_trace(rows, case)
        for name, pick in (("first of its process", _cold), ("later", _warm), ("in all", _closed)):
            quality = of_oracle(_picked(these, pick))
            bar = f">= {100 * ORACLE_BAR:g}" if name == "in all" else ""
            yield Check(f"{case}: PSNR of the oracle's, {name}", 100 * quality, "%", bar, quality >= ORACLE_BAR)
        closed_db, open_db = (fmean(row.masked_db for row in _picked(these, pick)) for pick in (_closed, _open))
        bar = f"> {open_db:.2f} without feedback"
        yield Check(f"{case}: PSNR at the deadline", closed_db, "dB", bar, closed_db > open_db)


# ---- losses ----------------------------------------------------------------------------------------


def lost_db(rows: Iterable[Row]) -> float:
    """Mean over the transmissions of what the region lost against one plan of all bytes that all arrives."""
    return fmean(row.oracle_db - row.masked_db for row in rows if row.oracle_db is not None)


def loss_table(rows: Sequence[Row], of_what: str) -> Table:
    """Side by side: cold, warm, without feedback, for each case and budget."""
    table = Table(title=f"Losses of {of_what} (first of its process / later / without feedback)")
    names = ("losses", "budget bytes", "packet", "n", "dB lost", "worst dB lost", "no picture", "budget sent %",
             "again %", "repair %", "plans", "feedback %")  # fmt: skip
    for name in names:
        table.add_column(name, justify="left" if name == "losses" else "right")
    for case in _cases(rows):
        for size in sorted({row.budget_bytes for row in rows if row.case == case}):
            these = [row for row in rows if row.case == case and row.budget_bytes == size]
            table.add_row(case, f"{size:,}", str(these[0].packet_bytes), *_loss_cells(these))
    return table


def _loss_cells(rows: Sequence[Row]) -> list[str]:
    sides = [_picked(rows, pick) for pick in (_cold, _warm, _open)]

    def each(figure: Callable[[Sequence[Row]], float], form: str, count: int = 3) -> str:
        return " / ".join(format(figure(side), form) for side in sides[:count])

    def part(name: str) -> str:
        return each(lambda side: 100 * fmean(getattr(row, name) / row.budget_bytes for row in side), ".1f", 2)

    return [
        " / ".join(str(len(side)) for side in sides),
        each(lost_db, ".2f"),
        each(lambda side: max((row.oracle_db or 0) - row.masked_db for row in side), ".1f"),
        each(lambda side: sum(not row.pictured for row in side), "d"),
        each(lambda side: 100 * fmean(row.sent_bytes / row.budget_bytes for row in side), ".1f"),
        part("again_bytes"),
        part("repair_bytes"),
        each(lambda side: fmean(row.revisions for row in side), ".2f", 2),
        part("feedback_bytes"),
    ]


def loss_checks(rows: Sequence[Row], of_what: str) -> Iterator[Check]:
    """What losses cost, for each case, both budgets together, cold and warm apart.

    Against an oracle, one plan of all bytes that all arrives, and against the same transmissions without losses,
    which keep bytes for what might have been.
    """
    for case in LOSS_CASES:
        these = [row for row in rows if row.case == case.name]
        for name, pick in (("first of its process", _cold), ("later", _warm)) if these else ():
            side, limit_db = _picked(these, pick), LOSS_BARS_DB.get(case.rate)
            bar = "" if limit_db is None else f"<= {limit_db:g} (without feedback {lost_db(_picked(these, _open)):.2f})"
            title, lost = f"{of_what}, loss {case.name}, {name}: PSNR", lost_db(side)
            ok = limit_db is None or lost <= limit_db
            yield Check(f"{title} lost, mean of {len(side)}", lost, "dB", bar, ok)
            clean = [row for row in _picked(rows, pick) if row.case == LOSS_CASES[0].name]
            if limit_db is not None and clean:
                missed = missed_db(side, clean)
                yield Check(f"{title} below that without losses", missed, "dB", f"<= {limit_db:g}", missed <= limit_db)


def missed_db(rows: Iterable[Row], clean: Iterable[Row]) -> float:
    """Mean over the transmissions of what the region lost against the same photo and budget without losses.

    Args:
        rows: with losses.
        clean: without; every photo and budget at least once.
    """
    found: dict[tuple[str, int], list[float]] = {}
    for row in clean:
        found.setdefault((row.photo, row.budget_bytes), []).append(row.masked_db)
    return fmean(fmean(found[row.photo, row.budget_bytes]) - row.masked_db for row in rows)


def picture_check(rows: Sequence[Row]) -> Check:
    """Whatever is lost, a picture comes."""
    side, without = _picked(rows, _closed), _picked(rows, _open)
    gone, gone_without = (sum(not row.pictured for row in each) for each in (side, without))
    bar = f"<= 0 (without feedback {gone_without} of {len(without)})"
    return Check(f"losses: transmissions without a picture, of {len(side)}", gone, "", bar, not gone)


# ---- all -------------------------------------------------------------------------------------------


def budget_check(rows: Sequence[Row]) -> Check:
    """Every byte counts."""
    over = sum(row.sent_bytes > row.budget_bytes for row in rows)
    return Check(f"transmissions beyond their budget, of {len(rows)}", over, "", "<= 0", not over)


def end_check(rows: Sequence[Row]) -> Check:
    """None hangs."""
    hung = sum(row.hung for row in rows)
    return Check(f"transmissions that did not end, of {len(rows)}", hung, "", "<= 0", not hung)
