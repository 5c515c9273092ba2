"""The portal's database."""
