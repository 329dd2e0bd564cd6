"""A study rehearsed: the same TOML on small stand-ins in the published layouts."""
