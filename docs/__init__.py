"""The documentation's sources: `immunebench docs` builds them."""
