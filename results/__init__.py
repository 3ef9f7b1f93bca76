"""Published figures, submissions and committed leaderboards."""
