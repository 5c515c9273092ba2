"""The only part that knows Flask: routes, pages, and what surrounds each request."""
