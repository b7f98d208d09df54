"""What the side labs need, one file a lab."""
