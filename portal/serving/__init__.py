"""The way of a prediction; it knows no database and no Flask."""
