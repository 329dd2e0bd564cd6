"""Names come from strangers: what makes one harmless wherever it is shown.

HTML needs no function here, because the report's template escapes every value; it does get
`printable` text, since a bidirectional override reorders a page too.
"""

JOINERS = "\u200c\u200d"  # inside emoji and Persian words: invisible, and harmless


def printable(text: str) -> str:
    r"""Return text that neither moves a terminal's cursor nor reorders a line.

    Controls (ESC, C1, line ends), bidirectional marks, odd blanks and lone surrogates are spelled
    out: `printable("\x1b[2J")` is `\x1b[2J` in eight visible letters.
    """
    if text.isprintable():
        return text
    return "".join(
        each
        if each.isprintable() or each in JOINERS
        else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def unformatted(text: str) -> str:
    """Return text that matplotlib draws as it is: a dollar sign would begin a formula."""
    return printable(text).replace("$", r"\$")
