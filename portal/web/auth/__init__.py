"""Who may manage."""
