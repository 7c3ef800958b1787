"""What figures show, drawn with matplotlib."""
