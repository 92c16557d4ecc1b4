"""What several networks share, or what a paper draws as a box of its own."""
