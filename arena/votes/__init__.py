"""From a votes file of any known format to one table, with nothing dropped in silence."""
