"""What people read of an arena: text for terminals, figures, and one HTML page."""
