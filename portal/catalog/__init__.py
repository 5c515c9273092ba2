"""What lies on disk: archives in the model store, reports of releases, tiles."""
