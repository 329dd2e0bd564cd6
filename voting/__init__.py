"""The page where people vote, blind, about pairs that are worth their time.

`study` says what of a study's TOML the page needs, `catalogue` what can be voted about, `choice`
which pair comes next, `ballots` keeps the votes, `raters` measures who gave them, `gate` keeps
other web sites out, `guard` those who hurry or forge, `server` is the HTTP interface, page/ what a
browser loads.
Nothing here rates for good or trains: a vote is a file in the study's landing folder.
"""
