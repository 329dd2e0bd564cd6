"""From a votes file of any known format to one table, with nothing dropped in silence.

    sources         which files are meant: paths, folders, patterns, URLs
    read            the door: the votes of all files come together, and those that came twice
    delivery        one file's rows, from its container to checked votes
    containers      what holds the rows, by its first bytes: text_tables, columnar, samples
    layout, formats which column is which, and what is special to a published layout
    check           which rows are votes (rankings: of several images at once); spellings
    identity        what makes a vote, and a file, itself
    intake          the pipeline's first stage: from sources to tables on disk
    summary         what a person should know of it
    images          the images that votes are about
"""
