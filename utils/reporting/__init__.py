"""What people look at: curves, sheets, reports, titles."""
