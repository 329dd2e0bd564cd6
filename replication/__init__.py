"""The project's own study: does the arena's gap help? See docs/evidence/replication.md.

What to read first: world (whose votes), gaps (what is learned from them), runs (one policy), matrix
(which runs there are), contrasts (what is compared), report and figures (the page).
"""
