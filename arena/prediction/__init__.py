"""How well ratings predict votes that they have not seen, and the settings that do it best."""
