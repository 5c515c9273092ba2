"""What is true about the product now, and what it counts."""
