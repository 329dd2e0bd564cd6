"""From a prompt to a win rate: drawing, scoring and comparing policies.

    commands/    one for each word after `python -m evaluation`
    prompts      what is drawn; generate draws it, from the weights that policies finds
    score        a column of scores for each of scorers/; images come from pictures, numbers that
                 were computed before from kept
    comparison/  from a table of scores to the page that says who wins
    ksort/       a new model's place in an arena, by the judgments of its judges/
    agreement    whether scorers agree with people, whose votes human_votes reads

What these share: tables (files), hub (weights), devices, errors.
"""

import os

# Waiting OpenMP threads sleep instead of spinning. Spinning ones take the cores from each other as
# soon as anything else runs on the machine, and a step becomes ten times as slow; alone, sleeping
# costs nothing that could be measured. It is read when torch is loaded, so it must be said here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
