"""Jobs on a Ray cluster: submitted, followed, listed and stopped through its job server."""
