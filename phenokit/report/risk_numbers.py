"""How risks, rates and other figures of a risk analysis are written."""

from math import floor, isnan, log10


def format_risk(risk: float, low: float, high: float) -> str:
    """A risk in per cent, two significant digits, with its interval.

    A rare outcome keeps its digits: a report is opened to read them.

    Examples
    --------
    >>> format_risk(0.123, 0.0811, 0.17), format_risk(0.0251, 0.021, 0.0293)
    ('12 % (8–17)', '2.5 % (2.1–2.9)')
    >>> format_risk(0.0043, 0.0021, 0.007), format_risk(0.5, float("nan"), float("nan"))
    ('0.43 % (0.21–0.70)', '50 % (no interval)')
    """
    if isnan(risk):
        return "not known"
    digits = percent_digits(risk)
    if isnan(low) or isnan(high):
        return f"{100 * risk:.{digits}f} % (no interval)"
    return f"{100 * risk:.{digits}f} % ({100 * low:.{digits}f}–{100 * high:.{digits}f})"


def percent_digits(risk: float) -> int:
    """Decimals that show two significant digits of a per cent.

    Examples
    --------
    >>> [percent_digits(risk) for risk in (0.5, 0.0996, 0.025, 0.0043, 0.0)]
    [0, 0, 1, 2, 1]
    """
    per_cent = 100 * abs(risk)
    if per_cent == 0:
        return 1
    exponent = floor(log10(float(f"{per_cent:.1e}")))
    return min(max(1 - exponent, 0), 4)


def format_percent(risk: float) -> str:
    """A risk in per cent, two significant digits, without its interval.

    Examples
    --------
    >>> [format_percent(risk) for risk in (0.45, 0.0436, float("nan"))]
    ['45 %', '4.4 %', 'not known']
    """
    return "not known" if isnan(risk) else f"{100 * risk:.{percent_digits(risk)}f} %"


def format_per_1000(value: float, low: float, high: float) -> str:
    """Patients of 1,000, with the interval.

    Examples
    --------
    >>> format_per_1000(87.9, 79.4, 95.7), format_per_1000(4.31, 2.2, 7.9)
    ('88 (79–96)', '4.3 (2.2–7.9)')
    """
    if isnan(value):
        return "not known"
    digits = 0 if value >= 9.95 else 1
    return f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def format_number(value: float, low: float, high: float) -> str:
    """A figure of another unit with its interval; the largest has three digits.

    Examples
    --------
    >>> format_number(1.9543, 1.414, 2.4361), format_number(-0.31, float("nan"), 1.0)
    ('1.95 (1.41 to 2.44)', '-0.310 (no interval)')
    >>> format_number(0.00248, -0.765, 0.77), format_number(12345.6, 12001.0, 12699.0)
    ('0.002 (-0.765 to 0.770)', '12,346 (12,001 to 12,699)')
    """
    if isnan(value):
        return "not known"
    if isnan(low) or isnan(high):
        return f"{significant(value)} (no interval)"
    digits = _decimals(max(abs(value), abs(low), abs(high)))
    return f"{value:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def significant(value: float) -> str:
    """Three significant digits; thousands in full.

    Examples
    --------
    >>> significant(1.9543), significant(-0.31), significant(12345.6)
    ('1.95', '-0.310', '12,346')
    """
    return f"{value:,.{_decimals(abs(value))}f}"


def _decimals(size: float) -> int:
    """Decimals that show three significant digits of a number of this size."""
    if size == 0:
        return 2
    return min(max(2 - floor(log10(float(f"{size:.2e}"))), 0), 8)
