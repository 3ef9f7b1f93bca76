"""Built-in attackers, one file each."""
