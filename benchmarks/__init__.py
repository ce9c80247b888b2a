"""What mmgevent costs, measured against the program one would write by hand."""
