"""The built-in metrics of this track, one file each, registered as entry points `immunebench.metrics`."""
