"""Is one policy better than another? From a table of scores to the page that says so.

`scores` reads the table and pairs the images, `statistics` compares by the intervals and tests of
`intervals`, `drift` looks at what a win rate does not see, `page` and `figures` show it all.
"""
