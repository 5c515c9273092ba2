"""What portal, handlers and training must agree on, once; it needs the standard library alone."""
